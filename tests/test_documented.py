"""Every setting, command, route and process is documented, and nothing is documented that isn't there."""

import re
from collections.abc import Iterator
from pathlib import Path

import click
from falcon.inspect import inspect_routes
from redis.asyncio import Redis

from api.app import create_app
from db.engine import Engines, make_engine
from pipeline import platforms
from pipeline.cli import main
from pipeline.settings import Settings
from tests import fakes

DOCS = Path(__file__).resolve().parent.parent / "docs"


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


def test_every_route_has_its_line() -> None:
    settings = fakes.settings("postgresql:///nowhere", "redis://nowhere")
    engines = Engines(make_engine("postgresql+psycopg2:///nowhere"))
    app = create_app(settings, engines, Redis.from_url("redis://nowhere"), enqueue=lambda *_, **__: None)
    routes = {route.path.replace(":path", "") for route in inspect_routes(app)}
    page = (DOCS / "api.md").read_text()

    assert set(re.findall(r"(?:GET|POST) (/[^`]*)`", page)) == routes


def _commands(command: click.Command, name: str) -> Iterator[str]:
    if isinstance(command, click.Group):
        for child, sub in command.commands.items():
            yield from _commands(sub, f"{name} {child}")
    else:
        yield name
