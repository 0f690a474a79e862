"""The ports of a run: those that are wanted, or free ones."""

import socket
from collections.abc import Iterator, Mapping

HIGHEST = 65_535
USUAL = {"PORT": 8000, "FLOWER_PORT": 5555, "SIMULATOR_PORT": 8099}


def choose(given: Mapping[str, str]) -> dict[str, int]:
    """Return a free port for each process that listens: the one that the settings want, else any.

    Raises ValueError that names a setting which is no port.
    """
    return {name: _free(port) or _free(0) or port for name, port in wanted(given)}


def wanted(given: Mapping[str, str]) -> Iterator[tuple[str, int]]:
    """Yield each setting's name and the port that it names, else the usual one."""
    for name, usual in USUAL.items():
        text = given.get(name) or str(usual)
        if not (text.isdecimal() and int(text) <= HIGHEST):
            raise ValueError(f"{name}={text} is no port: it takes a number from 0 to {HIGHEST}.")
        yield name, int(text)


def _free(port: int) -> int | None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return None
        return int(probe.getsockname()[1])
