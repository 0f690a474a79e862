"""Whether a package of requirements.lock has a known vulnerability: `./dev audit`, by pip-audit.

A vulnerability fails with the package, what it is called and the version that mends it, unless deploy/audit-ignore.txt
names it. Where the service that knows them can't be reached, it says so and goes on: no build may hang on that. As it
comes, pip-audit takes a service that answers 404 to everything for one that knows of no vulnerability.
"""

import json
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from msgspec import Struct

HERE = Path(__file__).resolve().parent
IGNORED = HERE / "audit-ignore.txt"
LOCK = HERE.parent / "requirements.lock"
# All packages take some ten seconds; a service that doesn't answer would be waited for once for each.
WITHIN_S = 120
_ANSWER_S = 5
_LINE = re.compile(r"(\S+) (\d{4}-\d\d-\d\d) (\S.*)")


class Verdict(Struct, frozen=True):
    """What was found: lines that fail, and lines to be known."""

    faults: Sequence[str]
    notes: Sequence[str]


def ignored(text: str) -> Mapping[str, date]:
    """Read which vulnerabilities are left alone until when. Raises ValueError for a line without day or reason."""
    found = {}
    for line in text.splitlines():
        if line.strip() and not line.startswith("#"):
            parts = _LINE.fullmatch(line.strip())
            if parts is None:
                raise ValueError(f"{IGNORED.name}: {line!r} isn't written as: ID 2027-01-31 why it does no harm here")
            found[parts[1]] = date.fromisoformat(parts[2])
    return found


def judge(report: Mapping[str, Any], leave: Mapping[str, date], today: date) -> Verdict:
    """Say what pip-audit's report means. Pure."""
    packages = report["dependencies"]
    faults, notes = [], []
    for package in packages:
        for one in package.get("vulns", ()):
            names = {one["id"], *one.get("aliases", ())}
            until = max((leave[name] for name in names & leave.keys()), default=None)
            mended = " or ".join(one.get("fix_versions", ())) or "no version yet"
            line = f"{package['name']} {package['version']}: {', '.join(sorted(names))}, mended by {mended}"
            if until is None:
                faults.append(line)
            elif until < today:
                faults.append(f"{line} (left alone until {until}: look at it again)")
            else:
                notes.append(f"{line} (left alone until {until})")
    unknown = [package["name"] for package in packages if "skip_reason" in package]
    if len(unknown) == len(packages):
        notes.append("NOT AUDITED: the service that knows vulnerabilities can't be reached from here.")
    elif unknown:
        notes.append(f"Not audited, since the service doesn't know them: {', '.join(unknown)}.")
    return Verdict(faults, notes)


def ask(program: str, within_s: float = WITHIN_S) -> Mapping[str, Any] | None:
    """Return pip-audit's report, None where it has none."""
    options = ["--requirement", str(LOCK), "--require-hashes", "--disable-pip", "--format=json"]
    options += ["--progress-spinner=off", f"--timeout={_ANSWER_S}"]
    try:
        done = subprocess.run([program, *options], capture_output=True, text=True, timeout=within_s, check=False)
        report = json.loads(done.stdout)
    except (subprocess.TimeoutExpired, ValueError):
        return None
    return report if isinstance(report, dict) and report.get("dependencies") else None


def main(program: str = str(Path(sys.executable).with_name("pip-audit"))) -> int:
    leave = ignored(IGNORED.read_text())
    report = ask(program)
    if report is None:
        print("NOT AUDITED: pip-audit gave no report, or none in time; is there a way out to the internet?")
        return 0
    verdict = judge(report, leave, datetime.now(UTC).date())
    for line in (*verdict.notes, *verdict.faults):
        print(line)
    if verdict.faults:
        print(
            f"Raise these packages (./dev lock), or say in deploy/{IGNORED.name} why they do no harm, and until when."
        )
        return 1
    if audited := sum("vulns" in one for one in report["dependencies"]):
        print(f"No other known vulnerability in {audited} packages.")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
