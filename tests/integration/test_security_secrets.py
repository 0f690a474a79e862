"""No password has a default, each secret may stand in a file, and what starts without any lets nobody in."""

import os
import re
import subprocess
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path

import pytest
from pydantic import SecretStr
from sqlalchemy import text

from db.engine import DatabaseError, Engine, reading
from pipeline import platforms
from pipeline.settings import Settings, SettingsError, is_secret, load_settings

WORD = "kE3pTh1s"
HERE = Path(__file__).resolve().parents[2]
FIELDS = {name.upper(): field for name, field in Settings.model_fields.items() if is_secret(name.upper())}
CREDENTIALS = sorted({name for p in platforms.load().values() for name in (*p.needs, *p.instead, *p.uses)})
WRITTEN = {
    "DATABASE_URL": f"postgresql://a:{WORD}@h/d",
    "DATABASE_READ_REPLICA_URL": f"postgresql://a:{WORD}@h/d",
    "REDIS_URL": f"redis://:{WORD}@h/0",
    "BROKER_URL": f"amqp://a:{WORD}@h//",
    "HTTPS_PROXY": f"http://a:{WORD}@h:1",
    "FLOWER_BASIC_AUTH": f"a:{WORD}",
    "ALERT_WEBHOOK_URL": f"https://hooks.example.org/{WORD}",
    "OTEL_EXPORTER_OTLP_HEADERS": f"name={WORD}",
}
# Without which a secret would be refused.
BESIDE = {"SMTP_PASSWORD": {"SMTP_HOST": "mail.example.org", "SMTP_USER": "ann", "MAIL_FROM": "ann@example.org"}}
NEEDED = {name: WRITTEN[name] for name in ("DATABASE_URL", "REDIS_URL")}
# What servers and their images come with, and what people write first.
USUAL = re.compile(
    r"guest:guest|postgres:postgres|admin:admin|rollcall:rollcall|changeme|hunter2|letmein|password123"
    r"|(?:PASSWORD|SECRET|TOKEN|API_KEY|BASIC_AUTH)\s*[:=]\s*['\"]?(?=[\w-]*[a-z])[\w-]*\d[\w-]*['\"]?\s*$",
    re.IGNORECASE | re.MULTILINE,
)


@pytest.mark.parametrize("name", [*FIELDS, *CREDENTIALS])
def test_each_secret_may_stand_in_a_file_and_is_shown_nowhere(tmp_path: Path, name: str) -> None:
    file = tmp_path / "secret"
    file.write_text(f"{WRITTEN.get(name, WORD)}\n")
    needed = NEEDED | BESIDE.get(name, {})
    given = {key: value for key, value in needed.items() if key != name} | {f"{name}_FILE": str(file)}

    found = load_settings(given, env_files=())
    value = found.platforms[name] if name in CREDENTIALS else getattr(found, name.lower())
    assert isinstance(value, SecretStr)
    assert WORD in value.get_secret_value()
    assert not value.get_secret_value().endswith("\n")
    assert WORD not in f"{found!r} {found} {found.model_dump()}"


@pytest.mark.parametrize("name", ["X_BEARER_TOKEN_2", "YOUTUBE_API_KEY_3"])
def test_so_may_those_of_further_sets(tmp_path: Path, name: str) -> None:
    file, base = tmp_path / "secret", name[:-2]
    file.write_text(WORD)
    given = {**NEEDED, base: "a", **({f"{base}_2": "b"} if name.endswith("3") else {}), f"{name}_FILE": str(file)}
    assert load_settings(given, env_files=()).platforms[name].get_secret_value() == WORD


def test_what_looks_like_a_secret_is_one() -> None:
    """A setting whose name says so is never shown, and may stand in a file."""
    telling = re.compile(r"TOKEN|SECRET|PASSWORD|AUTH$|_KEY$|DATABASE_URL|REDIS_URL|BROKER_URL|PROXY$")
    names = [name.upper() for name, field in Settings.model_fields.items() if not field.exclude]
    named = {name for name in names if telling.search(name)}
    assert named - FIELDS.keys() <= {
        *("API_REQUIRE_KEY", "API_RATE_LIMIT_KEY", "NO_PROXY"),
        *("TOKEN_EXPIRY", "ALERT_TOKEN_DAYS"),  # days
    }


def test_no_secret_has_a_default() -> None:
    assert {name for name, field in FIELDS.items() if field.default is not None and not field.is_required()} == set()
    with pytest.raises(SettingsError, match="DATABASE_URL"):
        load_settings({}, env_files=())


def test_no_file_that_is_installed_holds_a_password() -> None:
    files = [file for folder in ("deploy", "api", "db", "pipeline", "workers") for file in (HERE / folder).rglob("*")]
    texts = {
        file: file.read_text(errors="replace")
        for file in files
        if file.suffix in (".py", ".yaml", ".sh", ".conf", ".vcl", ".example", ".service", "") and file.is_file()
    }
    assert {
        str(file.relative_to(HERE)): found[0] for file, said in texts.items() if (found := USUAL.search(said))
    } == {}
    assert USUAL.search("POSTGRES_PASSWORD: s3cret")
    assert USUAL.search("amqp://guest:guest@h")


def test_flower_does_not_start_without_a_password(tmp_path: Path) -> None:
    environ: Mapping[str, str] = {**NEEDED, "PATH": os.environ["PATH"], "PYTHONPATH": str(HERE)}
    done = subprocess.run(
        [sys.executable, "-m", "pipeline.app", "flower"],
        cwd=tmp_path,
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode
    assert "FLOWER_BASIC_AUTH" in done.stderr
    assert WORD not in done.stdout + done.stderr


def test_a_failed_statement_shows_no_value(engine: Engine) -> None:
    with reading(engine) as conn, pytest.raises(DatabaseError) as failed:
        conn.execute(text("SELECT CAST(:word AS text), 1 / 0"), {"word": WORD})
    assert "division by zero" in str(failed.value)
    assert WORD not in "".join(traceback.format_exception(failed.value))


def test_the_embedded_servers_have_no_door_but_their_owners(engine: Engine, redis_url: str) -> None:
    if os.environ.get("TEST_DATABASE_URL") or os.environ.get("TEST_REDIS_URL"):
        pytest.skip("the tests run on servers of somebody else")
    with reading(engine) as conn:
        assert conn.scalar(text("SHOW listen_addresses")) == ""
        assert conn.scalar(text("SHOW unix_socket_permissions")) == "0700"
    socket = Path(redis_url.removeprefix("unix://").partition("?")[0])
    assert socket.stat().st_mode & 0o077 == 0
