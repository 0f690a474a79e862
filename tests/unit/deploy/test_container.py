"""The container files: what they start, name and keep secret is there. No container engine is needed."""

import re
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from honcho.environ import parse_procfile

from pipeline import platforms
from pipeline.settings import load_settings

ROOT = Path(__file__).resolve().parent.parent.parent.parent
FOLDER = ROOT / "deploy" / "container"


@pytest.fixture(scope="module")
def compose() -> Any:
    return yaml.safe_load((FOLDER / "compose.yaml").read_text())


def test_every_process_is_a_service_with_the_same_command(compose: Any) -> None:
    services = {name: one["command"] for name, one in compose["services"].items() if one.get("image") == "rollcall"}
    wanted = {n: c.split() for n, c in parse_procfile((ROOT / "Procfile").read_text()).processes.items()}
    del wanted["simulator"]

    assert {name: services.get(name) for name in wanted} == wanted
    assert services.keys() - wanted.keys() == {"upgrade", "partitions"}
    assert {name[7:] for name in services if name.startswith("worker_")} == platforms.load().keys()


def test_what_services_refer_to_is_there(compose: Any) -> None:
    for name, service in compose["services"].items():
        assert set(service.get("secrets", [])) <= compose["secrets"].keys(), name
        for needed, how in service.get("depends_on", {}).items():
            other = compose["services"][needed]
            if how["condition"] == "service_healthy":
                assert "healthcheck" in other, (name, needed)
            else:
                assert (how["condition"], other["restart"]) == ("service_completed_successfully", "no"), (
                    name,
                    needed,
                )
        for volume in service.get("volumes", []):
            source = volume.partition(":")[0]
            known = source in compose["volumes"] or (FOLDER / source).is_file()
            assert known, (name, volume)
        files = {
            Path(path).name for path in service.get("environment", {}).values() if path.startswith("/run/secrets/")
        }
        assert files <= set(service["secrets"] if files else []), name


def test_nothing_is_published_beyond_this_machine_and_ours_may_do_nothing_special(compose: Any) -> None:
    for name, service in compose["services"].items():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name
        if service["image"] == "rollcall":
            assert (service["cap_drop"], service["read_only"]) == (["ALL"], True), name
            assert "no-new-privileges:true" in service["security_opt"], name


def test_each_process_has_the_role_that_it_needs(compose: Any) -> None:
    def url_of(name: str) -> str:
        return Path(compose["services"][name]["environment"]["DATABASE_URL_FILE"]).name

    assert url_of("api") == "database_url_api"
    assert {url_of(name) for name in ("upgrade", "partitions")} == {"database_url_owner"}
    others = [n for n, one in compose["services"].items() if one["image"] == "rollcall" and n not in
              ("api", "upgrade", "partitions")]  # fmt: skip
    assert {url_of(name) for name in others} == {"database_url_workers"}


def test_secrets_are_made_once_each_another_and_fit_the_settings(compose: Any, tmp_path: Path) -> None:
    script = tmp_path / "secrets.sh"
    script.write_text((FOLDER / "secrets.sh").read_text())
    for _ in range(2):
        subprocess.run(["sh", str(script)], check=True)
        made = {file.name: file.read_text() for file in (tmp_path / "secrets").iterdir()}
    passwords = [text for name, text in made.items() if name.startswith("password_")]

    assert made.keys() == compose["secrets"].keys()
    assert len(set(passwords)) == len(passwords) and min(map(len, passwords)) > 40
    assert stat.S_IMODE((tmp_path / "secrets").stat().st_mode) == 0o700
    found = load_settings(
        {
            "DATABASE_URL_FILE": str(tmp_path / "secrets" / "database_url_api"),
            "FLOWER_BASIC_AUTH_FILE": str(tmp_path / "secrets" / "flower"),
            "REDIS_URL": "redis://redis:6379/0",
        },
        env_files=(),
    )
    password = made["password_api"].strip()
    assert found.database_url.get_secret_value() == f"postgresql+psycopg2://rollcall_api:{password}@postgres/rollcall"


def test_the_roles_of_the_script_are_those_of_the_settings() -> None:
    made = set(re.findall(r"^make_role (\w+)", (FOLDER / "roles.sh").read_text(), re.MULTILINE))
    found = load_settings({"DATABASE_URL": "postgresql://x/y", "REDIS_URL": "redis://x"}, env_files=())
    assert {found.db_api_role, found.db_workers_role} == made - {"rollcall_migrator"}
    assert subprocess.run(["sh", "-n", str(FOLDER / "roles.sh")]).returncode == 0


def test_the_image_holds_every_package_and_no_more_than_files_that_are_there() -> None:
    copied = re.findall(r"^COPY (?!--)(.+) \S+$", (FOLDER / "Containerfile").read_text(), re.MULTILINE)
    names = {name for line in copied for name in line.split()}
    assert names == {"requirements.lock", "setup.cfg", "pyproject.toml", "README.md", "LICENSE"} | {
        "api", "db", "deploy", "pipeline", "workers"
    }  # fmt: skip
    assert all((ROOT / name).exists() for name in names)
