"""An nginx for tests: `deploy/nginx.conf` before an API on some port, everything in one folder, with a certificate of its own."""

import os
import re
import shutil
import ssl
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from http.client import HTTPSConnection
from pathlib import Path

from tests.varnish import free_port

START_S = 30.0
HOW_TO_GET_IT = "nginx is not installed: apt-get install nginx-light"
_SITE = Path(__file__).resolve().parent.parent / "deploy" / "nginx.conf"
_AROUND = """
daemon off; pid {folder}/pid; error_log {folder}/error.log; worker_processes 1;
events {{ worker_connections 256; }}
http {{
    access_log {folder}/access.log;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    gzip on; gzip_types text/css application/json; gzip_proxied any;  # as many a distribution's nginx.conf has it
    include {folder}/site.conf;
}}
"""


def nginx_program() -> str | None:
    return shutil.which("nginx", path=os.pathsep.join(["/usr/sbin", "/usr/local/sbin", os.environ["PATH"]]))


def make_certificate(folder: Path) -> tuple[Path, Path]:
    """Return the files of a new certificate for `localhost` and some others, and of its key."""
    folder.mkdir(exist_ok=True)
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    names = "subjectAltName=DNS:localhost,DNS:rollcall.example,DNS:static.rollcall.example,IP:127.0.0.1"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    command += ["-addext", names, "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    return certificate, key


class Nginx:
    """A running nginx with its TLS port."""

    def __init__(self, port: int, plain_port: int, certificate: Path) -> None:
        self.port, self.plain_port = port, plain_port
        self.context = ssl.create_default_context(cafile=str(certificate))

    def connect(self, source: str = "127.0.0.1", timeout_s: float = 30) -> HTTPSConnection:
        """Return a connection that comes from an address of this machine."""
        return HTTPSConnection(
            "127.0.0.1", self.port, timeout=timeout_s, context=self.context, source_address=(source, 0)
        )

    def ask(
        self, path: str, method: str = "GET", body: bytes | None = None, source: str = "127.0.0.1", **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        """Return status, headers (names in lower case) and body as they were on the wire."""
        connection = self.connect(source)
        try:
            given = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body, {"Host": "rollcall.example", **given})
            answer = connection.getresponse()
            return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()
        finally:
            connection.close()


@contextmanager
def nginx(backends: Sequence[int], folder: Path) -> Iterator[Nginx]:
    """Run nginx before the APIs at these ports until the block ends."""
    program = nginx_program()
    assert program is not None, HOW_TO_GET_IT
    folder.mkdir()
    folder.chmod(0o755)
    certificate, key = make_certificate(folder)
    server = Nginx(free_port(), free_port(), certificate)
    site = _SITE.read_text()
    servers = "".join(f"    server 127.0.0.1:{port} max_fails=0;\n" for port in backends)
    for written, own, times in (
        (r"    server 127\.0\.0\.1:8000 max_fails=0;\n", servers, 1),
        (r"listen 443 ssl", f"listen 127.0.0.1:{server.port} ssl", 3),
        (r"listen 80", f"listen 127.0.0.1:{server.plain_port}", 2),
        (r"/etc/ssl/rollcall\.pem", str(certificate), 3),
        (r"/etc/ssl/private/rollcall\.key", str(key), 3),
    ):
        site, found = re.subn(written, own, site)
        assert found == times, written
    (folder / "site.conf").write_text(site)
    (folder / "nginx.conf").write_text(_AROUND.format(folder=folder))
    log = folder / "error.log"
    command = [program, "-c", str(folder / "nginx.conf"), "-p", str(folder), "-e", str(log)]
    if os.getuid() == 0:  # its workers stay root: the folder of a test is nobody else's
        command += ["-g", "user root;"]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        until = time.monotonic() + START_S
        while not _answers(server):
            ended = process.poll() is not None
            assert not ended and time.monotonic() < until, f"nginx did not start\n{log.read_text()}"
            time.sleep(0.05)
        yield server
    finally:
        process.terminate()
        process.wait(START_S)


def _answers(server: Nginx) -> bool:
    with suppress(OSError):
        return server.ask("/healthz")[0] == 200
    return False
