"""The systemd units: what systemd itself says of them, and that they start what the Procfile starts."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from honcho.environ import parse_procfile

ROOT = Path(__file__).resolve().parent.parent.parent.parent
UNITS = ROOT / "deploy" / "systemd"
SERVICES = sorted(path.name.replace("@.", "@x.") for path in UNITS.glob("*.service"))
# Of 100, where 0 is a process that can do nothing: what opens no connection and reads no file needn't be started.
MOST_EXPOSED = 20

needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd is not installed: apt-get install systemd"
)


@pytest.fixture(scope="module")
def units(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the units, with programs that are there on every machine."""
    folder = tmp_path_factory.mktemp("units") / "system"
    shutil.copytree(UNITS, folder)
    for unit in folder.glob("*.service"):
        unit.write_text(re.sub(r"ExecStart=\S+", "ExecStart=/bin/true", unit.read_text()))
    return folder


def analyze(units: Path, *command: str) -> "subprocess.CompletedProcess[str]":
    environ = {**os.environ, "SYSTEMD_UNIT_PATH": f"{units}:"}  # and those of the system
    return subprocess.run(["systemd-analyze", *command], env=environ, capture_output=True, text=True)


@needs_systemd
def test_systemd_finds_no_fault_in_any_unit(units: Path) -> None:
    names = [*SERVICES, *(path.name for path in UNITS.glob("*.t*")), "rollcall-api.socket"]
    said = analyze(units, "verify", "--man=no", *names)
    about_ours = [line for line in (said.stdout + said.stderr).splitlines() if "rollcall" in line]
    assert about_ours == []


@needs_systemd
def test_systemd_would_find_a_fault(units: Path, tmp_path: Path) -> None:
    shutil.copytree(units, tmp_path / "system")
    unit = tmp_path / "system" / "rollcall-beat.service"
    unit.write_text(unit.read_text().replace("WatchdogSec=60", "WatchdogSecs=60"))
    assert "WatchdogSecs" in analyze(tmp_path / "system", "verify", "--man=no", unit.name).stderr


@needs_systemd
@pytest.mark.parametrize("service", SERVICES)
def test_each_service_is_shut_in(units: Path, service: str) -> None:
    said = analyze(units, "security", "--offline=true", f"--threshold={MOST_EXPOSED}", service)
    assert said.returncode == 0, said.stdout[-200:]


def test_the_units_start_what_the_procfile_starts() -> None:
    processes = parse_procfile((ROOT / "Procfile").read_text()).processes
    started = {
        command.removeprefix("/opt/rollcall/.venv/bin/")
        for unit in UNITS.glob("*.service")
        for command in re.findall(r"^ExecStart=(.*)$", unit.read_text(), re.MULTILINE)
    }
    one_each = {command.replace(" x", " %i") if "workers x" in command else command for command in processes.values()}
    wanted = {
        command for command in one_each if not re.match(r"python -m (workers (?!%i)|deploy\.simulator)", command)
    }

    assert started == wanted | {"rollcall db partitions", "rollcall db upgrade"}
