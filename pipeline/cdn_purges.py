"""The threads that tell CDNs what was purged (`pipeline.cdn_queue`), so that no job and no request waits for one."""

import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress

import structlog
from redis import Redis, RedisError
from redis.exceptions import LockError

from db import tags
from pipeline.cdn import Cdn, CdnError
from pipeline.cdn_queue import Waiting

log = structlog.get_logger()

# A purge waits so long, and goes out with all others of that time. By then the API's processes have heard of it (it takes
# a millisecond): a CDN that is told before them would fetch the old answer once more, and keep it.
WINDOW_S = 0.1
# An aggregate changes with every job of a sweep, and is purged no more often than this.
AGGREGATE_S = 2.0
# An answer may have been on its way while its purge overtook it, so what was purged is purged once more after this.
AGAIN_S = 5.0
FIRST_RETRY_S = 0.5
LONGEST_RETRY_S = 30.0
# Several beats may run; one of them tells a CDN, and another takes over when that has been silent for so long.
LEASE_S = 10.0
_RENEW_S = 1.0
MOST_TAGS = 256
_MOST_CHARACTERS = 6_000


class Teller:
    """Tells one CDN what was purged. Used in a thread of its own: a CDN that is slow holds up no other."""

    def __init__(self, cdn: Cdn, redis: Redis, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._cdn = cdn
        self._waiting = Waiting(redis, cdn.name)
        self._lease = redis.lock(f"rollcall:cdn:lease:{cdn.name}", timeout=LEASE_S, blocking=False)
        self._clock = clock
        self._renew_at = 0.0
        self._leads = False
        # The tags that wait, each with the number of the purge by which it was first seen to, and when that was.
        self._seen: dict[str, tuple[float, float]] = {}
        self._sent_at: dict[str, float] = {}
        self._again_at: dict[str, float] = {}
        self._failures = 0

    def run(self, stop: threading.Event) -> None:
        """Tell until `stop`. Failures are said once, and tried again ever more rarely."""
        while not stop.wait(self._pause_s()):
            try:
                self.tell()
            except (CdnError, RedisError) as exc:
                self._failed(exc if isinstance(exc, CdnError) else CdnError(f"Redis: {type(exc).__name__}"))
            else:
                self._went_well()
        with suppress(RedisError):
            self._give_up_lease()

    def tell(self) -> None:
        """Send what is due, if nobody else does. Raises CdnError, or RedisError; what wasn't sent stays."""
        if not self._is_leader():
            return
        waiting, now = self._waiting.all(), self._clock()
        self._seen = {tag: self._seen.get(tag, (number, now)) for tag, number in waiting.items()}
        due = [tag for tag in waiting if self._may_go(tag, now)]
        due += [tag for tag, at in self._again_at.items() if at <= now and tag not in waiting]
        for soft in (False, True):
            for batch in _batches([tag for tag in due if _is_softly(tag) == soft]):
                self._cdn.purge(batch, soft=soft)
                self._took(batch)

    def _may_go(self, tag: str, now: float) -> bool:
        _, seen_at = self._seen[tag]
        is_too_soon = tags.is_aggregate(tag) and now - self._sent_at.get(tag, float("-inf")) < AGGREGATE_S
        return now - seen_at >= WINDOW_S and not is_too_soon

    def _took(self, batch: Sequence[str]) -> None:
        # What was purged once more since it was first seen has another number now: it stays, and waits its own time.
        sent = {tag: self._seen.pop(tag)[0] for tag in batch if tag in self._seen}
        now = self._clock()
        for tag in batch:
            self._again_at.pop(tag, None)
        for tag in sent:
            self._again_at[tag] = now + AGAIN_S
            if tags.is_aggregate(tag):
                self._sent_at[tag] = now
        if sent:
            self._waiting.done(sent)

    def _is_leader(self) -> bool:
        now = self._clock()
        if now >= self._renew_at:
            self._renew_at = now + _RENEW_S
            self._leads = self._renew_lease()
            if self._leads:
                self._waiting.announce()
        return self._leads

    def _renew_lease(self) -> bool:
        if self._leads:
            with suppress(LockError):  # it ran out while this process stood still
                return bool(self._lease.reacquire())
        return bool(self._lease.acquire())

    def _give_up_lease(self) -> None:
        if self._leads:
            with suppress(LockError):
                self._lease.release()

    def _pause_s(self) -> float:
        if not self._failures:
            return WINDOW_S
        longest: float = min(FIRST_RETRY_S * 2 ** min(self._failures - 1, 10), LONGEST_RETRY_S)
        return random.uniform(longest / 2, longest)

    def _failed(self, why: CdnError) -> None:
        self._failures += 1
        if self._failures == 1:
            log.warning("cdn_behind", cdn=self._cdn.name, error=str(why))

    def _went_well(self) -> None:
        if self._failures:
            log.info("cdn_caught_up", cdn=self._cdn.name)
        self._failures = 0


def start(cdns: Sequence[Cdn], redis: Redis, stop: threading.Event) -> Sequence[threading.Thread]:
    """Start a thread per CDN; they end after `stop`."""
    threads = [
        threading.Thread(target=Teller(cdn, redis).run, args=(stop,), name=f"cdn {cdn.name}", daemon=True)
        for cdn in cdns
    ]
    for thread in threads:
        thread.start()
    return threads


def _is_softly(tag: str) -> bool:
    """Tell whether the old answers may serve while new ones are fetched: not those of an account."""
    return tags.is_aggregate(tag) or tag == tags.EVERYTHING


def _batches(names: Sequence[str]) -> Iterator[Sequence[str]]:
    """Yield parts that one request carries: Fastly takes so many tags, and Varnish headers of so many bytes."""
    batch: list[str] = []
    length = 0
    for name in names:
        if len(batch) == MOST_TAGS or length + len(name) > _MOST_CHARACTERS:
            yield batch
            batch, length = [], 0
        batch.append(name)
        length += len(name) + 1
    if batch:
        yield batch
