"""A Varnish for tests: `deploy/varnish.vcl` before an API on some port, everything in one folder."""

import http.client
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from msgspec import Struct

START_S = 30.0
HOW_TO_GET_IT = "Varnish is not installed: apt-get install varnish varnish-modules"
_CONFIGURATION = Path(__file__).resolve().parent.parent / "deploy" / "varnish.vcl"
_FOLDERS = ("/usr/sbin", "/usr/local/sbin", "/opt/homebrew/sbin")
_MODULES = ("/usr/lib", "/usr/local/lib", "/opt/homebrew/lib")


def varnishd() -> str | None:
    """Return the program, None where it, or its module xkey, isn't installed."""
    has_xkey = any(Path(folder).glob("**/vmods/libvmod_xkey.so") for folder in _MODULES)
    return shutil.which("varnishd", path=os.pathsep.join([*_FOLDERS, os.environ["PATH"]])) if has_xkey else None


class Answer(Struct, frozen=True):
    """What came back, header names in lower case, the body as it was on the wire."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def is_hit(self) -> bool:
        return self.headers["x-cdn"] == "hit"


class Varnish:
    """A running Varnish."""

    def __init__(self, port: int, log: Path) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self._port = port
        self._log = log

    def get(self, path: str, method: str = "GET", **headers: str) -> Answer:
        """Ask for a path; `If_None_Match="…"` is the header If-None-Match."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)
        try:
            given = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, headers=given)
            answer = connection.getresponse()
            named = {name.lower(): value for name, value in answer.getheaders()}
            return Answer(answer.status, named, answer.read())
        finally:
            connection.close()

    def answers(self) -> bool:
        with suppress(OSError):
            self.get("/healthz")
            return True
        return False


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextmanager
def varnish(port: int, backend_port: int, folder: Path, configuration: Path = _CONFIGURATION) -> Iterator[Varnish]:
    """Run Varnish on `port` until the block ends."""
    program = varnishd()
    assert program is not None, HOW_TO_GET_IT
    text = configuration.read_text()
    assert text.count('.port = "8000"') == 1
    own = folder / "varnish.vcl"
    own.write_text(text.replace('.port = "8000"', f'.port = "{backend_port}"'))
    # In the foreground, as whoever runs the tests, with the compiler's warnings in its log.
    command = [program, "-F", "-j", "none", "-n", str(folder / "varnish"), "-f", str(own)]
    command += ["-a", f"127.0.0.1:{port}", "-T", "none", "-s", "malloc,64m", "-p", "http_gzip_support=off"]
    command += ["-p", "thread_pool_min=10", "-p", "thread_pools=1"]
    with (folder / "varnish.log").open("wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    server = Varnish(port, folder / "varnish.log")
    try:
        until = time.monotonic() + START_S
        while not server.answers():
            ended = process.poll() is not None
            said = (folder / "varnish.log").read_text()
            assert not ended and time.monotonic() < until, f"Varnish did not start\n{said}"
            time.sleep(0.05)
        yield server
    finally:
        process.terminate()
        process.wait(START_S)
