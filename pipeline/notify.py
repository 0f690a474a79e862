"""What a process tells its manager: that it makes progress, that it leaves.

It speaks systemd's protocol, to which `./dev run` listens too; where nobody listens nothing is sent. A manager that
hears no progress for a while replaces the process. Source: sd_notify(3).
"""

import os
import socket
from contextlib import suppress


def alive() -> None:
    """Say that work goes on, or could: the start is over, and nothing hangs."""
    _say("READY=1\nWATCHDOG=1")


def leaving() -> None:
    """Say that the process stops by itself and is to be waited for."""
    _say("STOPPING=1")


def _say(text: str) -> None:
    # No setting: the manager gives each process an address of its own.
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):  # Linux's sockets without a file
        address = f"\0{address[1:]}"
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.setblocking(False)  # one that doesn't read must not stop the work
        manager.sendto(text.encode(), address)
