"""The Flower of the Procfile: closed without its password, and with it a look at the workers of two platforms."""

import base64
import json
import re
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest
from honcho.environ import parse_procfile

from tests.system import HERE, system
from tests.varnish import free_port

PASSWORD = "ann:only for the newsroom"
# What Flower shows, and what it does, by the paths of its pages and its API.
LOOKS = ("/", "/workers", "/tasks", "/broker", "/metrics", "/api/workers", "/api/tasks", "/api/queues/length")
WITHIN_S = 90.0


@pytest.fixture
def commands(project: Path) -> dict[str, list[str]]:
    """Return each process of the Procfile as the module and the arguments that Python runs."""
    lines = parse_procfile((project / "Procfile").read_text()).processes
    return {name: command.removeprefix("python -m ").split() for name, command in lines.items()}


class Door:
    """A Flower at some port."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"

    def ask(self, path: str, password: str | None = PASSWORD) -> tuple[int, bytes]:
        """Return status and body; 0 while nothing answers."""
        request = urllib.request.Request(self.url + path)
        if password is not None:
            request.add_header("Authorization", "Basic " + base64.b64encode(password.encode()).decode())
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()
        except OSError:
            return 0, b""

    def shown(self, path: str) -> Any:
        status, body = self.ask(path)
        return json.loads(body) if status == 200 else None


def test_with_its_password_flower_shows_the_workers_of_each_platform_their_queues_and_limits(
    commands: dict[str, list[str]], database_url: str, redis_url: str, tmp_path: Path
) -> None:
    port = free_port()
    flower = Door(port)
    environ = {"FLOWER_PORT": str(port), "FLOWER_BASIC_AUTH": PASSWORD, "RATE_LIMIT_BLUESKY_PROFILES": "3/m"}
    with system(database_url, redis_url, tmp_path / "logs", **environ) as (processes, _):
        started = {name: processes.start(*commands[name]) for name in ("flower", "worker_bluesky", "worker_x")}
        found = processes.wait(lambda: of_both(flower), within_s=WITHIN_S, what="Flower, and both workers")

        assert {platform: queues(worker) for platform, worker in found.items()} == {
            name: {f"{name}.{lane}" for lane in ("user_requested", "core", "retry")} for name in ("bluesky", "x")
        }
        # In Celery's spelling: 3/m by its setting, and X's own 300/15m.
        assert limits(found["bluesky"])["scrape.bluesky.profiles"] == "180/h"
        assert limits(found["x"])["scrape.x.profiles"] == "1200/h"
        empty = dict.fromkeys(queues(found["bluesky"]) | queues(found["x"]), 0)
        processes.wait(lambda: lengths(flower) == empty, within_s=WITHIN_S, what="the length of each queue")

        listening = [
            one.laddr for one in psutil.Process(started["flower"].pid).net_connections() if one.status == "LISTEN"
        ]
        assert listening == [("127.0.0.1", port)], "nobody else's machine gets at it"
        for path in LOOKS:
            processes.wait(lambda path=path: flower.ask(path)[0] == 200, within_s=WITHIN_S, what=path)
            for wrong in (None, "ann:", "ann:wrong", "only for the newsroom"):
                status, body = flower.ask(path, wrong)
                assert status == 401 and body in (b"", b"Access denied"), (path, wrong)


def of_both(flower: Door) -> dict[str, Any] | None:
    """Return what Flower knows of the worker of each platform, once it knows it of both."""
    workers = flower.shown("/api/workers?refresh=1") or {}
    known = [one for one in workers.values() if len(one.get("active_queues", ())) == 3 and one.get("registered")]
    found = {one["active_queues"][0]["name"].partition(".")[0]: one for one in known}
    return found if len(found) == 2 else None


def lengths(flower: Door) -> dict[str, int]:
    shown = flower.shown("/api/queues/length") or {"active_queues": []}
    return {queue["name"]: queue["messages"] for queue in shown["active_queues"]}


def queues(worker: Mapping[str, Any]) -> set[str]:
    return {queue["name"] for queue in worker["active_queues"]}


def limits(worker: Mapping[str, Any]) -> dict[str, str]:
    """Return the rate that each task is shown with."""
    return dict(re.findall(r"^(\S+) \[.*rate_limit=([^\s\]]+)", "\n".join(worker["registered"]), re.MULTILINE))


def test_without_a_password_flower_does_not_start_and_says_what_to_set(commands: dict[str, list[str]]) -> None:
    environ = {"DATABASE_URL": "postgresql:///nowhere", "REDIS_URL": "redis://127.0.0.1:9"}
    command = [sys.executable, "-m", *commands["flower"]]
    done = subprocess.run(command, cwd=HERE, env=environ, capture_output=True, text=True, timeout=WITHIN_S)

    assert done.returncode == 1
    assert done.stderr == "Flower stays closed without a password: set FLOWER_BASIC_AUTH=user:password.\n"
