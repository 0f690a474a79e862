"""This machine: room on its disks, open files, who may read the secrets; and the address of static files."""

import resource
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

import urllib3
from urllib3.exceptions import HTTPError

from pipeline.doctor.finding import Finding
from pipeline.settings import EMBEDDED_ENV, Settings

DISK_WARN_BYTES = 2 * 1024**3
DISK_FAIL_BYTES = 200 * 1024**2
# An API process has up to 1,000 connections of clients (deploy/gunicorn.conf.py), exports, and those to its servers.
LEAST_OPEN_FILES = 2048
_ASK_S = 5.0


def secrets(settings: Settings) -> Iterator[Finding]:
    """Look whether files that hold secrets are for their owner and group alone."""
    # Those that systemd or a container's engine hands over are theirs to guard.
    own = [file for file in settings.secret_files if not file.is_relative_to("/run")]
    files = [file for file in (Path(".env"), Path(EMBEDDED_ENV), *own) if file.exists()]
    if not files:
        return
    open_to_all = [str(file) for file in files if stat.S_IMODE(file.stat().st_mode) & 0o007]
    if open_to_all:
        named = " ".join(open_to_all)
        yield Finding("fail", "secrets", f"every user of this machine may read {named}", f"chmod o= {named}")
    else:
        yield Finding("ok", "secrets", f"{len(files)} file{'s' if len(files) > 1 else ''}, closed to others")


def disks(settings: Settings) -> Iterator[Finding]:
    yield _disk("disk", Path.cwd(), "here")
    folder = Path(settings.export_folder)
    if folder.is_dir():
        yield _disk("disk of exports", folder, f"in {folder}")
    else:
        mend = "make it, for the API's user alone, or correct EXPORT_FOLDER"
        yield Finding("fail", "disk of exports", f"there is no folder {folder}", mend)


def _disk(what: str, folder: Path, where: str) -> Finding:
    free = shutil.disk_usage(folder).free
    said = f"{free / 1024**3:.1f} GiB free {where}"
    if free >= DISK_WARN_BYTES:
        return Finding("ok", what, said)
    return Finding("warn" if free >= DISK_FAIL_BYTES else "fail", what, said, "make room: the servers stop without")


def open_files() -> Finding:
    """Look how many files a process may open that is started as this one was."""
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most == resource.RLIM_INFINITY or most >= LEAST_OPEN_FILES:
        return Finding("ok", "open files", "as many as a process likes" if most < 0 else f"{most:,} per process")
    mend = f"`ulimit -n {LEAST_OPEN_FILES * 4}`, or LimitNOFILE= in the unit"
    return Finding("warn", "open files", f"{most:,} per process: too few for 1,000 clients", mend)


def static_url(settings: Settings) -> Iterator[Finding]:
    """Look whether a CDN serves what the pages need, and lets browsers take scripts from it."""
    if not settings.static_url:
        return
    # Any version will do: the API gives a file out under another one, too.
    address = f"{settings.static_url.rstrip('/')}/static/doctor/app.css"
    try:
        answer = urllib3.request("GET", address, timeout=_ASK_S, retries=False)
    except (HTTPError, ValueError) as exc:
        mend = "correct STATIC_URL, or leave it empty: the API serves them itself"
        yield Finding("fail", "static files", f"{settings.static_url} can't be reached ({type(exc).__name__})", mend)
        return
    if answer.status != 200:
        mend = "let it fetch /static/ from the API, path and all"
        yield Finding("fail", "static files", f"{address} answers {answer.status}", mend)
    elif answer.headers.get("Access-Control-Allow-Origin") != "*":
        mend = "let it pass Access-Control-Allow-Origin on"
        yield Finding("fail", "static files", "scripts from there are refused by browsers (no CORS)", mend)
    else:
        yield Finding("ok", "static files", f"come from {settings.static_url}")
