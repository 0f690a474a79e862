"""What tests of the command line share."""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from click.testing import Result

LIST = """url,organization,is_core
https://x.com/goose,Geese,yes
https://x.com/gander,Geese,no
https://pond.example/@duck,Ducks,no
https://www.flickr.com/photos/swan,Swans,no
"""


def lines(result: Result) -> list[list[str]]:
    """Return what a command printed into a pipe, as cells."""
    return [line.split("\t") for line in result.stdout.splitlines()]


def peak_rss_bytes(arguments: Sequence[str], environ: Mapping[str, str], folder: Path) -> int:
    """Run `rollcall` in a process of its own to its good end; return the most memory that it held."""
    command = [str(Path(sys.executable).with_name("rollcall")), *arguments]
    process = subprocess.Popen(command, env={**os.environ, **environ}, cwd=folder, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
