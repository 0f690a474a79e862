"""What `./dev audit` makes of pip-audit's report: what fails, what is only said."""

import json
import stat
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from deploy import audit

TODAY = date(2026, 11, 30)
HOLE = {"id": "PYSEC-2026-1", "aliases": ["CVE-2026-1"], "fix_versions": ["2.0.1"], "description": "…"}
GOOD = {"name": "celery", "version": "5.7.0", "vulns": []}
BAD = {"name": "jinja2", "version": "2.0.0", "vulns": [HOLE]}
UNKNOWN = {"name": "falcon", "skip_reason": "Dependency not found"}


def judged(*packages: Any, leave: str = "") -> audit.Verdict:
    return audit.judge({"dependencies": packages}, audit.ignored(leave), TODAY)


def test_a_vulnerability_fails_with_its_name_and_the_version_that_mends_it() -> None:
    assert judged(GOOD, BAD).faults == ["jinja2 2.0.0: CVE-2026-1, PYSEC-2026-1, mended by 2.0.1"]
    assert not judged(GOOD).faults


@pytest.mark.parametrize("name", ["PYSEC-2026-1", "CVE-2026-1"])
def test_what_does_no_harm_is_left_alone_until_its_day(name: str) -> None:
    left = judged(BAD, leave=f"# why\n{name} 2026-11-30 its server isn't started\n")
    assert (left.faults, len(left.notes)) == ([], 1)
    assert "look at it again" in judged(BAD, leave=f"{name} 2026-11-29 its server isn't started").faults[0]


@pytest.mark.parametrize(
    "line", ["CVE-2026-1", "CVE-2026-1 2026-11-30", "CVE-2026-1 never harmless", "CVE-2026-1 2026-13-01 a"]
)
def test_nothing_is_left_alone_without_a_day_and_a_reason(line: str) -> None:
    with pytest.raises(ValueError, match=r"ID 2027-01-31|month must be"):
        audit.ignored(line)


def test_the_list_that_is_kept_can_be_read() -> None:
    audit.ignored(audit.IGNORED.read_text())


def test_a_service_that_knows_no_package_is_not_taken_for_one_that_knows_of_no_vulnerability() -> None:
    assert judged(UNKNOWN).notes == [
        "NOT AUDITED: the service that knows vulnerabilities can't be reached from here."
    ]
    assert judged(UNKNOWN, GOOD).notes == ["Not audited, since the service doesn't know them: falcon."]


@pytest.mark.parametrize(
    ("said", "code", "expected"),
    [
        (json.dumps({"dependencies": [GOOD]}), 0, "No other known vulnerability in 1 packages."),
        (json.dumps({"dependencies": [BAD]}), 1, "mended by 2.0.1"),
        (json.dumps({"dependencies": [UNKNOWN]}), 0, "NOT AUDITED"),
        ("ERROR: no connection", 0, "NOT AUDITED"),
        ("", 0, "NOT AUDITED"),
    ],
    ids=["good", "bad", "unknown", "away", "silent"],
)
def test_the_command_fails_for_a_vulnerability_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], said: str, code: int, expected: str
) -> None:
    program = tmp_path / "pip-audit"
    program.write_text(f"#!/bin/sh\ncat <<'SAID'\n{said}\nSAID\nexit 1\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)

    assert audit.main(str(program)) == code
    assert expected in capsys.readouterr().out


def test_a_service_that_takes_its_time_is_not_waited_for(tmp_path: Path) -> None:
    program = tmp_path / "pip-audit"
    program.write_text("#!/bin/sh\nexec sleep 60\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)

    assert audit.ask(str(program), within_s=0.2) is None
