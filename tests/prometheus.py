"""Prometheus for tests: what `deploy/` gives it and Grafana to ask, and a real one that scrapes an API."""

import json
import os
import re
import shutil
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml
from msgspec import Struct

from tests.varnish import free_port

START_S = 60.0
HOW_TO_GET_IT = "Prometheus is not installed: apt-get install prometheus"
_DEPLOY = Path(__file__).resolve().parent.parent / "deploy"
CONFIGURATION = _DEPLOY / "prometheus" / "prometheus.yml"
RULES = _DEPLOY / "prometheus" / "rules.yml"
RULES_TEST = _DEPLOY / "prometheus" / "rules_test.yml"
BOARD = _DEPLOY / "grafana" / "rollcall.json"
# What Grafana puts in for its variables.
_VARIABLES = {"$__rate_interval": "5m", "$platform": ".*"}


class Asked(Struct, frozen=True):
    """One expression of a panel of the board, with what its legend names."""

    panel: str
    expression: str
    legend: str


def programs() -> tuple[str, str] | None:
    """Return Prometheus and its tool, None where they aren't installed."""
    path = os.pathsep.join([os.environ["PATH"], "/usr/local/bin", "/opt/homebrew/bin"])
    server, tool = shutil.which("prometheus", path=path), shutil.which("promtool", path=path)
    return (server, tool) if server and tool else None


def promtool(*arguments: str) -> subprocess.CompletedProcess[str]:
    found = programs()
    assert found is not None, HOW_TO_GET_IT
    return subprocess.run([found[1], *arguments], capture_output=True, text=True)


def alerts() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def board() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(BOARD.read_text())
    return found


def asked() -> list[Asked]:
    """Return all that the board asks, as Grafana asks it."""
    return [
        Asked(panel["title"], filled_in(target["expr"]), target.get("legendFormat", ""))
        for panel in board()["panels"]
        for target in panel.get("targets", ())
    ]


def filled_in(expression: str) -> str:
    for name, value in _VARIABLES.items():
        expression = expression.replace(name, value)
    return expression


def configuration(folder: Path, *, port: int = 8000, key: str = "", often: bool = False) -> Path:
    """Write `deploy/`'s configuration for an API at a port, its rules and a key into a folder; return its file."""
    (folder / "rollcall.key").write_text(key)
    (folder / "rules.yml").write_text(RULES.read_text())
    text = CONFIGURATION.read_text()
    for written, own, times in (
        (r"/etc/prometheus/rollcall\.key", str(folder / "rollcall.key"), 2),
        (r"127\.0\.0\.1:8000", f"127.0.0.1:{port}", 1),
        # A scrape may take as long as it is to the next.
        (r"_interval: 15s", "_interval: 3s" if often else "_interval: 15s", 2),
    ):
        text, found = re.subn(written, own, text)
        assert found == times, written
    file = folder / "prometheus.yml"
    file.write_text(text)
    return file


class Prometheus:
    """A running Prometheus."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}"

    def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """Return labels and value of each series that the expression comes to now."""
        found = self._get("/api/v1/query?" + urllib.parse.urlencode({"query": expression}))["result"]
        return [(one["metric"], float(one["value"][1])) for one in found]

    def rules(self) -> list[dict[str, Any]]:
        return [rule for group in self._get("/api/v1/rules")["groups"] for rule in group["rules"]]

    def _get(self, path: str) -> Any:
        with urllib.request.urlopen(self._url + path, timeout=START_S) as answer:
            return json.load(answer)["data"]

    def is_ready(self) -> bool:
        with suppress(urllib.error.URLError), urllib.request.urlopen(f"{self._url}/-/ready", timeout=START_S):
            return True
        return False


@contextmanager
def prometheus(configured: Path) -> Iterator[Prometheus]:
    """Run Prometheus until the block ends; what it keeps lies beside its configuration."""
    found = programs()
    assert found is not None, HOW_TO_GET_IT
    port, log = free_port(), configured.parent / "prometheus.log"
    command = [found[0], f"--config.file={configured}", f"--storage.tsdb.path={configured.parent / 'data'}"]
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*command, f"--web.listen-address=127.0.0.1:{port}"],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    server = Prometheus(port)
    try:
        until = time.monotonic() + START_S
        while not server.is_ready():
            ended = process.poll() is not None
            assert not ended and time.monotonic() < until, f"Prometheus did not start\n{log.read_text()}"
            time.sleep(0.05)
        yield server
    finally:
        process.terminate()
        process.wait(START_S)
