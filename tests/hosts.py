"""Machines for tests, in a network of their own that nothing else sees: each can be cut off and joined again.

A machine is a Linux network namespace with a host name. Two lines lead from each to the hub, where the servers are: `lan`
to the servers, `net` to the platforms. What is cut is the lan, in the hub's bridge: packets vanish without a word, as
where a switch or a firewall fails, so connections hang instead of breaking. The platforms stay in reach, which is the
worst case: such a machine calls, and can't keep what it reads.
"""

import ctypes
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

# In 10.77.0.0/16, which only these namespaces know.
LAN, NET = "10.77.0", "10.77.1"
SERVERS, PLATFORMS = f"{LAN}.1", f"{NET}.1"
HUB = "hub"
_PREFIX = "rollcall-test"
_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


def lacking() -> str | None:
    """Return what keeps this process from making machines; None where it can."""
    if shutil.which("ip") is None or shutil.which("unshare") is None:
        return "machines need ip and unshare: apt-get install iproute2 util-linux"
    probe = _namespace("probe")
    try:
        _ip("netns", "add", probe)
        _ip("-n", probe, "link", "add", "bridge", "type", "bridge")
        _ip("-n", probe, "link", "add", "one", "type", "veth", "peer", "name", "other")
        _ip("netns", "exec", probe, "unshare", "--uts", "true")
    except RuntimeError as exc:
        return f"this user can make no machines here (root can, on Linux): {exc}"
    finally:
        _remove(probe)
    return None


class Hosts:
    """The hub and these machines, until `close`. Names are of this process; what a killed one left is cleared away first."""

    def __init__(self, names: Sequence[str]) -> None:
        _clear_stale()
        self._places = {name: place for place, name in enumerate(names, start=2)}
        try:
            self._make_hub()
            for name in names:
                self._make_host(name)
        except BaseException:
            self.close()
            raise

    def command(self, name: str) -> list[str]:
        """Return what a command is prefixed with to run on a machine, under its host name."""
        own_name = ["unshare", "--uts", "sh", "-c", f'hostname {name} && exec "$@"', "sh"]
        return ["ip", "netns", "exec", _namespace(name), *own_name]

    @contextmanager
    def inside(self, name: str) -> Iterator[None]:
        """Let this thread open sockets, and start processes, on a machine: they stay there."""
        with open("/proc/thread-self/ns/net") as home, open(f"/run/netns/{_namespace(name)}") as there:
            _enter(there.fileno())
            try:
                yield
            finally:
                _enter(home.fileno())

    def name_of(self, address: str) -> str:
        """Return whose address it is."""
        place = int(address.rpartition(".")[2])
        return next(name for name, at in self._places.items() if at == place)

    def cut(self, name: str) -> None:
        """Lose every packet between a machine and the servers."""
        _ip("-n", _namespace(HUB), "link", "set", self._port(name), "nomaster")

    def heal(self, name: str) -> None:
        _ip("-n", _namespace(HUB), "link", "set", self._port(name), "master", "lan")

    def close(self) -> None:
        """End whatever still runs on the machines, and remove them."""
        for name in (*self._places, HUB):
            _remove(_namespace(name))

    def _make_hub(self) -> None:
        hub = _namespace(HUB)
        _ip("netns", "add", hub)
        _ip("-n", hub, "link", "set", "lo", "up")
        for line, network in (("lan", LAN), ("net", NET)):
            _ip("-n", hub, "link", "add", line, "address", _mac(line, 1), "type", "bridge")
            _ip("-n", hub, "address", "add", f"{network}.1/24", "dev", line)
            _ip("-n", hub, "link", "set", line, "up")

    def _make_host(self, name: str) -> None:
        hub, host, place = _namespace(HUB), _namespace(name), self._places[name]
        _ip("netns", "add", host)
        _ip("-n", host, "link", "set", "lo", "up")
        for line, network in (("lan", LAN), ("net", NET)):
            port = f"{line}{place}"
            peer = ["peer", "name", line, "netns", host, "address", _mac(line, place)]
            _ip("-n", hub, "link", "add", port, "type", "veth", *peer)
            _ip("-n", hub, "link", "set", port, "master", line, "up")
            _ip("-n", host, "address", "add", f"{network}.{place}/24", "dev", line)
            _ip("-n", host, "link", "set", line, "up")
            # As behind a router, nobody asks who is there: what is sent to a machine that is cut off is lost, not refused.
            for space, to, mac in ((host, 1, _mac(line, 1)), (hub, place, _mac(line, place))):
                neighbour = ["neighbour", "replace", f"{network}.{to}", "lladdr", mac, "dev", line]
                _ip("-n", space, *neighbour, "nud", "permanent")

    def _port(self, name: str) -> str:
        return f"lan{self._places[name]}"


def _ip(*arguments: str) -> str:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout


def _namespace(name: str) -> str:
    return f"{_PREFIX}-{os.getpid()}-{name}"


def _mac(line: str, place: int) -> str:
    return f"02:00:00:00:{('lan', 'net').index(line):02x}:{place:02x}"


def _enter(namespace: int) -> None:
    if _libc.setns(namespace, _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


def _clear_stale() -> None:
    """Remove the machines of test processes that were killed before they could."""
    for line in _ip("netns", "list").splitlines():
        found = re.match(rf"{_PREFIX}-(\d+)-\w+", line)
        if found and not Path("/proc", found[1]).exists():
            _remove(found[0])


def _remove(namespace: str) -> None:
    if not Path("/run/netns", namespace).exists():
        return
    for pid in _ip("netns", "pids", namespace).split():
        with suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)
    _ip("netns", "delete", namespace)
