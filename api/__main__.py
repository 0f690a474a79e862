"""`python -m api`: gunicorn with the API in it."""

import os
import sys
from pathlib import Path

from pipeline.settings import SettingsError, load_settings

CONFIGURATION = Path(__file__).resolve().parent.parent / "deploy" / "gunicorn.conf.py"
GUNICORN = ("gunicorn", "--config", str(CONFIGURATION), "api.app:from_environment()")
"""The module that it becomes, and its arguments."""


def main() -> None:
    """Become gunicorn, so that signals reach it directly."""
    try:
        load_settings()
    except SettingsError as exc:  # said here once, instead of by every worker that can't start
        sys.exit(str(exc))
    command = [sys.executable, "-m", *GUNICORN]
    os.execv(command[0], command)  # no shell in between, on purpose


if __name__ == "__main__":
    main()
