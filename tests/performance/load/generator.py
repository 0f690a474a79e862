"""An open-loop client: requests leave by a schedule, and a time counts from the moment in it, not from when it was sent.

So a server that stands still for a second is seen by every request of that second, and not by one that then waits
(coordinated omission). `python -m tests.performance.load.generator PORT FILE SEED` takes an order per line from its
input and answers each by one line; FILE says what is asked for (tests.performance.load.traffic).
"""

import asyncio
import selectors
import sys
import time
from bisect import bisect
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, islice
from pathlib import Path
from random import Random

import msgspec
from msgspec import Struct

from tests.performance.load.traffic import Asked

# gunicorn ends a connection that is idle for five seconds: one that may be ending isn't used.
IDLE_S = 4.0
# So many that answers which take long don't keep others waiting: each visitor has a connection of its own.
CONNECTIONS = 256
# Longer than API_TIMEOUT_S, after which the API itself gives up: no answer until then is a fault.
PATIENCE_S = 35.0
LOOK_S = 0.25
# A run ends by itself, whatever it was asked for.
MOST_REQUESTS = 5_000_000
MOST_FAILURES = 100_000
_HEAD_END = b"\r\n\r\n"


class Order(Struct, frozen=True):
    """Ask so many times a second (by chance, as people do) for so many seconds, and so on with the next part."""

    parts: Sequence[tuple[float, float]]


class Failure(Struct, frozen=True):
    """A request without a good answer: when it was to leave and when it ended (epoch seconds), and how."""

    at: float
    ended_at: float
    what: str
    path: str


class Times(Struct, frozen=True):
    """Milliseconds within which these shares of the requests were answered; None where none was."""

    p50: float | None = None
    p90: float | None = None
    p99: float | None = None
    p999: float | None = None
    most: float | None = None

    @classmethod
    def of(cls, seconds: Iterable[float]) -> "Times":
        kept = sorted(seconds)
        if not kept:
            return cls()
        at = [kept[min(len(kept) - 1, int(share * len(kept)))] for share in (0.5, 0.9, 0.99, 0.999, 1)]
        return cls(*(round(one * 1000, 3) for one in at))


class Second(Struct, frozen=True):
    """What became of the requests that were to leave within one second (`at`: epoch seconds)."""

    at: float
    asked: int
    times: Times
    failed: dict[str, int]
    levels: dict[str, int]
    """Good answers by where they came from: l1, l2, stale, miss, or none (not cacheable)."""


class Offered(Struct, frozen=True):
    """What came of an order. `late_p99_ms` is how late requests left, and `own_cpu` the share of a core that took."""

    times: Times
    asked: int
    answered: int
    failed: dict[str, int]
    levels: dict[str, int]
    late_p99_ms: float
    own_cpu: float
    seconds: list[Second]
    failures: list[Failure]


class _Sent(Struct):
    """A request on its way. `due` is by the loop's clock."""

    due: float
    path: str
    request: bytes


class _Connection(asyncio.Protocol):
    def __init__(self, client: "Client") -> None:
        self._client = client
        self.sent: _Sent | None = None
        self.idle_since = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.Transport = transport  # type: ignore[assignment]

    def ask(self, sent: _Sent) -> None:
        self.sent = sent
        self._came = b""
        self._ends_at: int | None = None
        self.transport.write(sent.request)

    def data_received(self, data: bytes) -> None:
        if self.sent is None:
            self.transport.abort()
            return
        self._came += data
        if self._ends_at is None:
            end = self._came.find(_HEAD_END)
            if end < 0:
                return
            self._read_head(end)
        if self._ends_at is not None and len(self._came) >= self._ends_at:
            sent, self.sent = self.sent, None
            self._client.answered(self, sent, self._status, self._level, self._etag, keep=not self._closes)

    def _read_head(self, end: int) -> None:
        head = self._came[:end]
        fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:] if b": " in line)
        self._status = int(head[9:12])
        self._level = fields.get(b"x-cache", b"none").decode()
        etag = head.lower().find(b"\r\netag: ")
        self._etag = head[etag + 8 :].partition(b"\r\n")[0] if etag >= 0 else b""
        self._closes = fields.get(b"connection") == b"close"
        # Nothing that is asked for here comes in chunks.
        self._ends_at = end + len(_HEAD_END) + (0 if self._status == 304 else int(fields[b"content-length"]))

    def connection_lost(self, exc: Exception | None) -> None:
        sent, self.sent = self.sent, None
        self._client.lost(self, sent)


class Client:
    """Keeps connections as a browser does; a request without one waits its turn, which counts."""

    def __init__(self, port: int, asked: Sequence[Asked], random: Random) -> None:
        self._port = port
        self._paths = [one.path for one in asked]
        self._weights = list(accumulate(one.weight for one in asked))
        self._random = random
        self._etags: dict[str, bytes] = {}
        self._loop = asyncio.get_running_loop()
        # Between the loop's clock and that of everyone else.
        self._epoch = time.time() - self._loop.time()
        self._idle: list[_Connection] = []
        self._open: set[_Connection] = set()
        self._opening = 0
        self._waiting: deque[_Sent] = deque()
        self._forget()

    def _forget(self) -> None:
        self._began = 0.0
        self._answered: list[tuple[float, float]] = []
        self._late: list[float] = []
        self._asked = Counter[int]()
        self._levels: dict[int, Counter[str]] = {}
        self._failed: dict[int, Counter[str]] = {}
        self._failures: list[Failure] = []
        self._left = 0

    async def offer(self, order: Order) -> Offered:
        """Ask by the schedule, and return when every request has had an end."""
        self._forget()
        cpu = time.process_time()
        self._began = self._loop.time() + 0.05
        looking = asyncio.create_task(self._look())
        for due in islice(self._schedule(order), MOST_REQUESTS):
            # Behind its schedule it lets answers in, too.
            await asyncio.sleep(max(0.0, due - self._loop.time()))
            self._ask(due)
        cpu = time.process_time() - cpu
        while self._left:
            await asyncio.sleep(0.01)
        looking.cancel()
        return self._found(own_cpu=cpu / sum(seconds for _, seconds in order.parts))

    def _schedule(self, order: Order) -> Iterator[float]:
        begin = self._began
        for rate, seconds in order.parts:
            due = begin
            while (due := due + self._random.expovariate(rate)) < begin + seconds:
                yield due
            begin += seconds

    def close(self) -> None:
        for connection in self._open:
            connection.transport.abort()

    def _ask(self, due: float) -> None:
        path = self._paths[bisect(self._weights, self._random.random() * self._weights[-1])]
        # A browser that comes again says what it has.
        etag = self._etags.get(path) if self._random.random() < 0.1 else None
        known = b"If-None-Match: " + etag + b"\r\n" if etag else b""
        head = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{self._port}\r\nAccept-Encoding: gzip\r\n".encode()
        self._asked[int(due - self._began)] += 1
        self._left += 1
        self._late.append(self._loop.time() - due)
        self._give(_Sent(due, path, head + known + b"\r\n"))

    def _give(self, sent: _Sent) -> None:
        now = self._loop.time()
        while self._idle:
            connection = self._idle.pop()  # the latest used, so that what a quiet time doesn't need ends
            if connection.transport.is_closing() or now - connection.idle_since > IDLE_S:
                connection.transport.abort()
                continue
            connection.ask(sent)
            return
        self._waiting.append(sent)
        if len(self._open) + self._opening < CONNECTIONS:
            self._opening += 1
            self._opener = asyncio.ensure_future(self._connect())

    async def _connect(self) -> None:
        try:
            _, connection = await self._loop.create_connection(lambda: _Connection(self), "127.0.0.1", self._port)
        except OSError:
            if self._waiting:
                self._fail(self._waiting.popleft(), "refused")
            return
        finally:
            self._opening -= 1
        self._open.add(connection)
        self._free(connection)

    def _free(self, connection: _Connection) -> None:
        if self._waiting:
            connection.ask(self._waiting.popleft())
        else:
            connection.idle_since = self._loop.time()
            self._idle.append(connection)

    def answered(
        self, connection: _Connection, sent: _Sent, status: int, level: str, etag: bytes, *, keep: bool
    ) -> None:
        if status in (200, 304):
            second = int(sent.due - self._began)
            self._answered.append((sent.due, self._loop.time() - sent.due))
            self._levels.setdefault(second, Counter())[level] += 1
            self._etags[sent.path] = etag
            self._left -= 1
        else:
            self._fail(sent, str(status))
        if keep:
            self._free(connection)
        else:
            connection.transport.close()

    def lost(self, connection: _Connection, sent: _Sent | None) -> None:
        self._open.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        if sent is not None:
            self._fail(sent, "broken")
        if self._waiting and not self._open and not self._opening:  # nobody else would see to them
            self._opening += 1
            self._opener = asyncio.ensure_future(self._connect())

    def _fail(self, sent: _Sent, what: str) -> None:
        self._left -= 1
        self._failed.setdefault(int(sent.due - self._began), Counter())[what] += 1
        if len(self._failures) < MOST_FAILURES:
            ended_at = self._epoch + self._loop.time()
            self._failures.append(Failure(self._epoch + sent.due, ended_at, what, sent.path))

    async def _look(self) -> None:
        """Give up what has waited too long."""
        while True:
            await asyncio.sleep(LOOK_S)
            late = self._loop.time() - PATIENCE_S
            while self._waiting and self._waiting[0].due < late:
                self._fail(self._waiting.popleft(), "timeout")
            for connection in list(self._open):
                if connection.sent is not None and connection.sent.due < late:
                    sent, connection.sent = connection.sent, None
                    self._fail(sent, "timeout")
                    connection.transport.abort()
            if self._waiting and len(self._open) + self._opening < CONNECTIONS:
                self._opening += 1
                self._opener = asyncio.ensure_future(self._connect())

    def _found(self, *, own_cpu: float) -> Offered:
        took: dict[int, list[float]] = {}
        for due, seconds in self._answered:
            took.setdefault(int(due - self._began), []).append(seconds)
        seconds = [
            Second(
                at=round(self._epoch + self._began + number, 3),
                asked=self._asked[number],
                times=Times.of(took.get(number, ())),
                failed=dict(self._failed.get(number, {})),
                levels=dict(self._levels.get(number, {})),
            )
            for number in range(max(self._asked, default=-1) + 1)
        ]
        return Offered(
            times=Times.of(one for _, one in self._answered),
            asked=self._asked.total(),
            answered=len(self._answered),
            failed=dict(sum(self._failed.values(), Counter())),
            levels=dict(sum(self._levels.values(), Counter())),
            late_p99_ms=Times.of(self._late).p99 or 0.0,
            own_cpu=round(own_cpu, 3),
            seconds=seconds,
            failures=self._failures,
        )


async def serve(port: int, asked: Sequence[Asked], seed: int) -> None:
    loop = asyncio.get_running_loop()
    client = Client(port, asked, Random(seed))
    while line := await loop.run_in_executor(None, sys.stdin.buffer.readline):
        found = await client.offer(msgspec.json.decode(line, type=Order))
        sys.stdout.buffer.write(msgspec.json.encode(found) + b"\n")
        sys.stdout.buffer.flush()


def main(port: str, file: str, seed: str) -> None:
    asked = msgspec.json.decode(Path(file).read_bytes(), type=list[Asked])
    # Not epoll, whose waits are whole milliseconds: a schedule is finer than that.
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selectors.SelectSelector())) as runner:
        runner.run(serve(int(port), asked, int(seed)))


if __name__ == "__main__":
    main(*sys.argv[1:])
