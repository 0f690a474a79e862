"""What is looked at, over and over, while a load goes on: processes, readings, and whether answers show what was kept."""

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime
from random import Random
from typing import Self

import msgspec
from msgspec import Struct
from sqlalchemy import text

from db.engine import DatabaseError, PoolTimeout, reading
from tests.performance.load.checks import Stale
from tests.performance.load.site import Sample, Site

SAMPLE_S = 2.0
ASK_S = 0.25
# An account is shown as of its last commit: what was committed this long ago has been purged.
SETTLED_S = 1.5
_KEPT = "SELECT count(*) FROM kept"
# The latest reading of an account that isn't quite new.
_SETTLED = """
    SELECT extract(epoch FROM captured_at)::float8 AS captured_at, extract(epoch FROM committed_at)::float8 AS committed_at
    FROM kept JOIN dim_account USING (account_key)
    WHERE platform = :platform AND handle = :handle AND committed_at < to_timestamp(:before)
    ORDER BY captured_at DESC LIMIT 1
"""


class Progress(Struct, frozen=True):
    """How many numbers the simulator had told at a moment (epoch seconds), and how many were kept; None: it wasn't known."""

    at: float
    told: int
    kept: int | None


class Watch:
    """Looks from threads of its own, from the beginning of a block to its end."""

    def __init__(self, site: Site, seed: int, accounts: Sequence[str]) -> None:
        self.samples: list[Sample] = []
        self.progress: list[Progress] = []
        self.stale: list[Stale] = []
        self.compared = 0
        self._site = site
        self._random = Random(seed)
        self._names = accounts
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._again, args=(look, every_s))
            for look, every_s in ((self._sample, SAMPLE_S), (self._ask, ASK_S))
        ]
        self.error: BaseException | None = None

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        if self.error is not None:
            raise self.error
        self._sample()  # how it all ended

    def _again(self, look: Callable[[], None], every_s: float) -> None:
        try:
            while not self._stop.is_set():
                look()
                self._stop.wait(every_s)
        except BaseException as exc:  # noqa: BLE001  # raised where the block ends
            self.error = exc

    def _sample(self) -> None:
        self.samples += self._site.samples()
        now, (_, told), kept = time.time(), self._site.teller.count(), None
        with suppress(DatabaseError, PoolTimeout), reading(self._site.engine) as conn:
            kept = conn.scalar(text(_KEPT))
        self.progress.append(Progress(now, told, kept))

    def _ask(self) -> None:
        """Ask for an account, and note it if the answer doesn't show what was kept of it some time before."""
        name = self._random.choice(self._names)
        platform, _, handle = name.partition("/")
        began = time.time()
        asked = {"platform": platform, "handle": handle.partition("@")[0], "before": began - SETTLED_S}
        try:
            with reading(self._site.engine) as conn:
                row = conn.execute(text(_SETTLED), asked).first()
            if row is None:
                return
            shown = msgspec.json.decode(self._site.get(f"/api/accounts/{name}"))["last_success_at"]
        except (DatabaseError, PoolTimeout, OSError):  # requests that fail are counted elsewhere
            return
        self.compared += 1
        if shown is None or datetime.fromisoformat(shown).timestamp() < row.captured_at - 0.001:
            self.stale.append(Stale(began, name, round(began - row.committed_at, 2)))
