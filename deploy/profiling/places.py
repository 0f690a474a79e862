"""How files are named in a profile."""

import sys
from pathlib import Path

_HERE = Path(__file__).resolve().parent.parent.parent
_ROOMS = ("api", "db", "deploy", "pipeline", "workers")


def is_ours(file: str) -> bool:
    """Tell whether it's a file of Rollcall's, and no part of what profiles it."""
    path = Path(file)
    if not path.is_relative_to(_HERE):
        return False
    parts = path.relative_to(_HERE).parts
    return parts[0] in _ROOMS and parts[:2] != ("deploy", "profiling")


def short(file: str) -> str:
    """Return a file's path from the folder on, of Rollcall or of Python's path, that it lies in."""
    folders = [folder for folder in (str(_HERE), *sys.path) if folder and Path(file).is_relative_to(folder)]
    return str(Path(file).relative_to(max(folders, key=len))) if folders else file
