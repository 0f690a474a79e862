"""When calls arrive at a platform, by the clock of the kernel that received them."""

import socket
import struct
import threading
from contextlib import suppress
from urllib.parse import urlsplit

_SO_TIMESTAMPNS = 35  # Linux: asm-generic/socket.h


class Stamps:
    """Stands before a simulator and notes when requests for TikTok profiles arrive, by the kernel's clock.

    So a test process that is slow to read them doesn't make calls late that weren't. It listens on `address`; a
    subclass sees each call, and may keep its answer back.
    """

    def __init__(self, simulator_url: str, address: str = "127.0.0.1") -> None:
        self.arrived_at: list[float] = []
        self._behind = (urlsplit(simulator_url).hostname, urlsplit(simulator_url).port)
        self._listener = socket.create_server((address, 0))
        # Here and not at each connection, whose first request may have come before it is accepted.
        self._listener.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        self.url = "http://{}:{}".format(*self._listener.getsockname())
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def received(self, caller: str, data: bytes, at: float) -> None:
        """Take note of a part of a request from this address; its body may come after its head."""
        if b"/user/info" in data:
            self.arrived_at.append(at)

    def before_answer(self, caller: str) -> None:
        """Return when the next part of an answer may go to this address."""

    def _accept(self) -> None:
        with suppress(OSError):  # it was closed
            while True:
                client, (caller, _) = self._listener.accept()
                simulator = socket.create_connection(self._behind)
                threading.Thread(target=self._relay_requests, args=(client, caller, simulator), daemon=True).start()
                threading.Thread(target=self._relay_answers, args=(simulator, client, caller), daemon=True).start()

    def _relay_requests(self, client: socket.socket, caller: str, simulator: socket.socket) -> None:
        with client, simulator, suppress(OSError):
            while (received := client.recvmsg(65_536, socket.CMSG_SPACE(16)))[0]:
                data, [(_, _, stamp)], *_ = received
                seconds, nanos = struct.unpack("qq", stamp)
                self.received(caller, data, seconds + nanos / 1e9)
                simulator.sendall(data)

    def _relay_answers(self, simulator: socket.socket, client: socket.socket, caller: str) -> None:
        with suppress(OSError):
            while data := simulator.recv(65_536):
                self.before_answer(caller)
                client.sendall(data)
