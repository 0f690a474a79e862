"""deploy/env.example names every setting, and starts Rollcall once the two addresses are in it."""

from io import StringIO
from pathlib import Path

from dotenv import dotenv_values

from deploy import env_example
from pipeline import platforms
from pipeline.settings import Settings, load_settings

FILE = Path(env_example.__file__).with_name("env.example")


def test_the_file_is_what_the_settings_say() -> None:
    assert FILE.read_text() == "\n".join(env_example.lines()) + "\n", (
        "python -m deploy.env_example > deploy/env.example"
    )


def test_every_setting_and_what_platforms_bring_is_in_it() -> None:
    given = dotenv_values(stream=StringIO(FILE.read_text().replace("# ", "")))
    names = {name.upper() for name, field in Settings.model_fields.items() if not field.exclude}
    for platform in platforms.load().values():
        names |= {*platform.needs, *platform.instead, *platform.uses, f"{platform.name.upper()}_BASE_URL"}

    assert names <= given.keys()


def test_what_is_commented_out_is_the_default_and_all_of_it_is_taken(tmp_path: Path) -> None:
    """Every default may be written out: none is in a form that the settings refuse."""
    written = {n: v for n, v in dotenv_values(stream=StringIO(FILE.read_text().replace("# ", ""))).items() if v}
    servers = {"DATABASE_URL": "postgresql://me@host/rollcall", "REDIS_URL": "redis://host"}
    bare, full = load_settings(servers, env_files=()), load_settings(written | servers, env_files=())

    assert full.model_dump(exclude={"platforms"}) == bare.model_dump(exclude={"platforms"})
    for platform in platforms.load().values():
        assert full.base_url(platform) == bare.base_url(platform)
        for kind in platform.calls:
            assert full.rate(platform, kind) == bare.rate(platform, kind)
