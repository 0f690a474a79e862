"""Every setting, command, route, metric and process is documented, and nothing is documented that isn't there."""

import ast
import re
import shlex
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path

import click
from falcon.inspect import inspect_routes
from redis.asyncio import Redis

from api.app import create_app
from db import gaps
from db.engine import make_engine
from pipeline import metrics, platforms
from pipeline.cli import main
from pipeline.platforms import Meanings
from pipeline.settings import Settings, is_secret
from tests import fakes

PROJECT = Path(__file__).resolve().parent.parent
DOCS = PROJECT / "docs"
# What the log says when somebody should look; the profiler names its two events by a variable.
LEVELS = ("warning", "error", "critical", "exception")
PROFILED = {"statement_slow", "statement_repeated"}
# What sessions are called in pg_stat_activity: `rollcall beat` is no command.
SESSIONS = ("api", "worker", "beat", "recorder", "notifier", "cli", "migrate", "run")


def _rows(name: str) -> dict[str, str]:
    """Return the table rows of a page by what stands in their first cell between backticks."""
    found = re.findall(r"^\| `([^`]+)`(?: [^|]*)?\|(.*)\|$", (DOCS / name).read_text(), re.MULTILINE)
    return {first.strip(): rest for first, rest in found}


def test_every_setting_has_its_line_with_its_default_and_meaning() -> None:
    rows = _rows("settings.md")
    fields = {name.upper(): field for name, field in Settings.model_fields.items() if not field.exclude}

    assert rows.keys() == fields.keys()
    for name, field in fields.items():
        assert field.description and field.description in rows[name], name
        if field.default not in (None, "") and not field.is_required():
            assert f"`{field.default}`" in rows[name], name


def test_every_command_has_its_line() -> None:
    assert {re.split(r" [A-Z…]|…", command)[0] for command in _rows("operating.md")} == set(
        _commands(main, "rollcall")
    )


def test_every_platform_and_credential_has_its_line() -> None:
    page = (DOCS / "platforms.md").read_text()

    for platform in platforms.load().values():
        names = [platform.name, *(platform.needs if platform.calls else ())]
        assert all(name in page for name in names), names
        for call in platform.calls.values():
            assert call.limit in page, (platform.name, call.limit)


def test_every_count_of_a_platform_has_its_meaning_or_the_reason_why_there_is_none() -> None:
    rows = re.findall(r"^\| (\w+) \| (.*) \|$", (DOCS / "platforms.md").read_text(), re.MULTILINE)
    told = {name: cells.split(" | ") for name, cells in rows if cells.count(" | ") == 3}

    for platform in platforms.load().values():
        why_not = platform.not_offered.reasons
        assert told[platform.name] == [
            f"not offered: {why_not[name]}" if name in why_not else getattr(platform.meanings, name)
            for name in Meanings.__struct_fields__
        ]


def test_every_reason_of_a_gap_has_its_line() -> None:
    rows = _rows("data.md")

    for reason, means in gaps.REASONS.items():
        assert rows[reason].strip() == means


def test_every_route_has_its_line() -> None:
    settings = fakes.settings("postgresql:///nowhere", "redis://nowhere")
    engine = make_engine("postgresql+psycopg2:///nowhere")
    app = create_app(settings, engine, Redis.from_url("redis://nowhere"), enqueue=lambda *_, **__: None)
    routes = {route.path.replace(":path", "") for route in inspect_routes(app)}
    page = (DOCS / "api.md").read_text()

    assert set(re.findall(r"(?:GET|POST|PATCH|DELETE) (/[^`]*)`", page)) == routes


def test_every_metric_has_its_line_with_its_labels_and_meaning() -> None:
    rows = _rows("metrics.md")

    assert rows.keys() == metrics.BY_NAME.keys()
    for metric in metrics.ALL:
        labels = ", ".join(f"`{label}`" for label in metric.labels) or "–"
        assert [cell.strip() for cell in rows[metric.name].split("|")] == [metric.kind, labels, metric.help]


def test_security_names_each_secret_and_tests_that_there_are() -> None:
    page = (DOCS / "security.md").read_text()
    named = set(re.findall(r"`(test_\w+)`", page))
    tests = (DOCS.parent / "tests").rglob("test_*.py")

    assert named <= {
        name for file in tests for name in re.findall(r"^def (test_\w+)", file.read_text(), re.MULTILINE)
    }
    assert len(named) > 50
    assert {name.upper() for name in Settings.model_fields if is_secret(name.upper())} <= _rows("security.md").keys()


def test_every_command_line_in_a_page_can_be_typed() -> None:
    for page in (PROJECT / "README.md", *DOCS.glob("*.md")):
        lines = re.findall(
            r"(?:`|^    +)(?:\./dev |\.venv/bin/)?rollcall ([a-z][^`\n]*)", page.read_text(), re.MULTILINE
        )
        for line in lines:
            words = shlex.split(line.rstrip("…"), comments=True)
            assert words[0] in SESSIONS or _is_known(main, words), f"{page.name}: rollcall {line}"


def test_every_warning_and_error_of_the_log_has_its_line() -> None:
    rooms = [path for room in ("api", "db", "pipeline", "workers") for path in (PROJECT / room).rglob("*.py")]
    events = {event for path in rooms for event in _events(path)} | PROFILED

    assert {name for name in _rows("troubleshooting.md") if re.fullmatch("[a-z_]+", name)} == events


def test_what_troubleshooting_names_is_there() -> None:
    page = (DOCS / "troubleshooting.md").read_text()
    settings = set(re.findall(r"`([A-Z]+(?:_[A-Z0-9]+)+)(?:=[^`]*)?`", page))
    described = (DOCS / "settings.md").read_text() + (DOCS / "platforms.md").read_text()

    assert set(re.findall(r"`(rollcall_[a-z_]+)`", page)) <= metrics.BY_NAME.keys()
    assert [name for name in settings if not re.search(rf"\b{name}\b", described)] == ["READ_INTERVAL_S_X"]


def _is_known(command: click.Command, words: list[str]) -> bool:
    """Tell whether words name a command, or a group of them, and options that it has."""
    if isinstance(command, click.Group) and words and not words[0].startswith("-"):
        return words[0] in command.commands and _is_known(command.commands[words[0]], words[1:])
    options = {name for parameter in command.params for name in parameter.opts} | {"--help"}
    own = takewhile(lambda word: word != "--", words)  # what follows is another program's
    return {word for word in own if word.startswith("-") and len(word) > 1} <= options


def _events(path: Path) -> Iterator[str]:
    """Yield what a module logs by name at a level that somebody should look at."""
    for node in ast.walk(ast.parse(path.read_text())):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in LEVELS
            and node.args
            and isinstance(node.args[0], ast.Constant)
            and re.fullmatch(r"[a-z]+(_[a-z]+)*", str(node.args[0].value))
        ):
            yield str(node.args[0].value)


def _commands(command: click.Command, name: str) -> Iterator[str]:
    if isinstance(command, click.Group):
        for child, sub in command.commands.items():
            yield from _commands(sub, f"{name} {child}")
    else:
        yield name
