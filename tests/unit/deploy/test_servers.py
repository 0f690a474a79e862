"""Commands in another terminal find the servers of a run, however they were named to it."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from deploy import servers
from pipeline.settings import load_settings

NAMED = {
    "DATABASE_URL": "postgresql+psycopg2://heron:fish@db.example/rollcall",
    "REDIS_URL": "redis://redis.example:6379/0",
    "BROKER_URL": "amqp://heron:fish@broker.example//",
}


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Yield a folder for a run whose servers are all named, so that none is started."""
    (tmp_path / ".rollcall").mkdir()
    monkeypatch.setattr(servers, "HERE", tmp_path)
    monkeypatch.setattr(servers, "FOLDER", tmp_path / ".rollcall")
    for name in NAMED:
        monkeypatch.delenv(name, raising=False)
    yield tmp_path


def elsewhere(checkout: Path) -> Mapping[str, str]:
    """Return where a command in another terminal, with nothing in its environment, finds the servers."""
    settings = load_settings({}, (checkout / ".rollcall" / "env", checkout / ".env"))
    secrets = (settings.database_url, settings.redis_url, settings.broker_url)
    return {name: secret.get_secret_value() for name, secret in zip(NAMED, secrets, strict=True) if secret}


def test_servers_named_in_one_terminal_are_found_from_another(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in NAMED.items():
        monkeypatch.setenv(name, value)

    with servers.servers():
        assert elsewhere(checkout) == NAMED
        assert (checkout / ".rollcall" / "env").stat().st_mode & 0o077 == 0

    assert not (checkout / ".rollcall" / "env").exists()


def test_the_environment_outranks_the_file_and_a_blank_names_nothing(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (checkout / ".env").write_text("REDIS_URL=redis://file.example/0\nBROKER_URL=redis://file.example/1\n")
    monkeypatch.setenv("REDIS_URL", "redis://shell.example/0")
    monkeypatch.setenv("BROKER_URL", "")

    assert servers.given().get("REDIS_URL") == "redis://shell.example/0"
    assert "BROKER_URL" not in servers.given()
    assert servers.given()["PATH"] == os.environ["PATH"]


def test_ctrl_c_leaves_a_command_the_time_that_it_needs() -> None:
    slow = (
        "import signal, time; signal.signal(signal.SIGINT, lambda *_: (time.sleep(1), exit(7)));"
        "print(1, flush=True); signal.pause()"
    )
    outer = "import os, sys; from deploy import servers; sys.exit(servers.attended(sys.argv[1:], os.environ))"
    command = [sys.executable, "-c", outer, sys.executable, "-c", slow]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"1\n"
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        assert process.wait(60) == 7
