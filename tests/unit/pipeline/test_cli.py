"""The command line answers wrong use, wrong settings and missing servers in one message, never a traceback."""

import socket

import click
import pytest
from click.testing import CliRunner, Result

from pipeline.cli import main

SECRET = "geheim"


@pytest.fixture
def nowhere() -> str:
    """Return an address where nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def rollcall(tmp_path, monkeypatch, nowhere):
    """Return a function that runs a command far from any `.env` file, with servers that don't exist."""
    monkeypatch.chdir(tmp_path)
    addresses = {
        "DATABASE_URL": f"postgresql://u:{SECRET}@{nowhere}/x",
        "REDIS_URL": f"redis://:{SECRET}@{nowhere}/0",
    }

    def run(*arguments: str, **environ: str) -> Result:
        return CliRunner(env={**addresses, **environ}).invoke(main, arguments)

    return run


def said(result: Result) -> str:
    """Return what a command said on failing, having made sure that it failed in good order and told no secret."""
    assert isinstance(result.exception, SystemExit), result.exception
    assert SECRET not in result.output
    assert result.stdout == ""
    return result.stderr


def commands(group: click.Group, *path: str) -> list[tuple[str, ...]]:
    found = []
    for name, command in group.commands.items():
        found += commands(command, *path, name) if isinstance(command, click.Group) else [(*path, name)]
    return found


@pytest.mark.parametrize("path", commands(main), ids=" ".join)
def test_every_command_explains_itself_without_settings(rollcall, path):
    result = rollcall(*path, "--help", DATABASE_URL="", REDIS_URL="")
    assert result.exit_code == 0
    assert "Usage:" in result.stdout


def test_all_faulty_settings_are_named_at_once_without_their_values(rollcall):
    result = rollcall("status", DATABASE_URL=f"mysql://u:{SECRET}@h/x", REDIS_URL=f"http://{SECRET}", PORT="many")
    assert result.exit_code == 2
    assert all(name in said(result) for name in ("DATABASE_URL", "REDIS_URL", "PORT"))


def test_missing_settings_are_named(rollcall):
    result = rollcall("status", DATABASE_URL="", REDIS_URL="")
    assert result.exit_code == 2
    assert "DATABASE_URL" in said(result)


@pytest.mark.parametrize(
    "command",
    [
        ("accounts", "list"),
        ("enqueue", "--all"),
        ("jobs",),
        ("jobs", "cancel", "--queued"),
        ("status",),
        ("keys", "list"),
        ("keys", "create", "--name", "n", "--scope", "refresh"),
        ("demo", "clear", "--yes"),
        ("db", "upgrade"),
    ],
    ids=" ".join,
)
def test_a_database_that_is_away_is_one_line_that_names_its_setting(rollcall, command):
    result = rollcall(*command)
    assert result.exit_code == 1
    assert said(result).count("\n") == 1
    assert "Connection refused" in result.stderr
    assert "DATABASE_URL" in result.stderr


@pytest.mark.parametrize(
    "address",
    [
        f"postgresql://u:{SECRET}:{SECRET}@h:{SECRET}/x",
        f"postgresql://u:p@{SECRET}:x@h/x",
        f"postgresql://u@h:{SECRET}/x",
    ],
)
def test_an_address_that_can_t_be_taken_apart_is_never_quoted(rollcall, address):
    result = rollcall("status", DATABASE_URL=address)
    assert result.exit_code in (1, 2)
    assert "DATABASE_URL" in said(result)


@pytest.mark.parametrize(
    "command",
    [
        ("enqueue",),
        ("enqueue", "x/goose", "--all"),
        ("enqueue", "x/goose", "--core"),
        ("enqueue", "--all", "--failed"),
        ("enqueue", "--file", "missing.txt"),
        ("enqueue", "--file", "missing.txt", "--all"),
        ("enqueue", "--platform", "pigeons"),
        ("enqueue", "--since", "lately"),
        ("enqueue", "--since", "2999-01-01"),
        ("enqueue", "--all", "--timeout", "1m"),
        ("enqueue", "--all", "--wait", "--timeout", "soon"),
        ("jobs", "sing"),
        ("jobs", "--state", "tired"),
        ("jobs", "--limit", "0"),
        ("jobs", "show"),
        ("jobs", "show", "goose"),
        ("jobs", "retry"),
        ("jobs", "retry", "00000000-0000-4000-8000-000000000000", "--failed"),
        ("jobs", "retry", "00000000-0000-4000-8000-000000000000", "--platform", "x"),
        ("jobs", "cancel"),
        ("jobs", "cancel", "--platform", "x"),
        ("accounts", "import"),
        ("accounts", "import", "missing.csv"),
        ("accounts", "list", "--status", "tired"),
        ("keys", "create", "--name", "n", "--scope", "everything"),
        ("sing",),
    ],
    ids=" ".join,
)
def test_wrong_use_is_told_before_anything_is_asked_of_a_server(rollcall, command):
    result = rollcall(*command)
    assert result.exit_code == 2
    assert "Usage:" in said(result)


def test_the_doctor_goes_on_when_the_servers_are_away(rollcall):
    result = rollcall("doctor")
    assert result.exit_code == 1
    assert SECRET not in result.output
    lines = [line.split("\t") for line in result.stdout.splitlines()]
    found = {line[1]: line for line in lines}
    assert {what: found[what][0] for what in ("settings", "database", "redis", "broker", "api", "disk")} == {
        "settings": "ok",
        "database": "fail",
        "redis": "fail",
        "broker": "fail",
        "api": "fail",
        "disk": "ok",
    }
    assert "DATABASE_URL" in found["database"][3]
    assert "REDIS_URL" in found["redis"][3]
