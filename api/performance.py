"""What was counted, as figures: of requests, caches and readings, over some time. Pure."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime

from msgspec import Struct

from api.cache import stats
from api.cache.stats import Counts
from db.metrics import CLASSES, Sample
from pipeline import metrics
from pipeline.lanes import LANES, queue_name
from pipeline.messages import task_name
from pipeline.metrics import Metric, percentile_s
from pipeline.platforms import Platform
from pipeline.records import Kind
from pipeline.settings import Settings

# A read that got its thread within this class of times has not waited.
_AT_ONCE_S = 0.001


class EndpointFigures(Struct, frozen=True, kw_only=True):
    """Requests to one endpoint. `errors` are answers of 500 and above, `refused` those of 400 to 499."""

    endpoint: str
    count: int
    errors: int
    refused: int
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None


class CacheFigures(Struct, frozen=True, kw_only=True):
    """Cacheable answers by where they came from; `purges` are those heard by each process, added up."""

    l1_hits: int
    l2_hits: int
    stale: int
    misses: int
    evictions: int
    purges: int
    hit_rate: float | None


class WaitFigures(Struct, frozen=True, kw_only=True):
    """Reads of the database: how many waited a millisecond or more for a thread and its connection, and how long."""

    reads: int
    waits: int
    p95_ms: float | None


class ScrapingFigures(Struct, frozen=True, kw_only=True):
    """Readings of one platform by one queue. `success_rate` is the part of the accounts that were read.

    `limit_used_pct` is what its calls took of what the platform allows in this time: of the kind of call nearest to
    its limit; null where the platform can't be called. `retries` are accounts whose attempt before had failed.
    """

    platform: str
    queue: str
    calls: int
    accounts: int
    success_rate: float | None
    p50_s: float | None
    p95_s: float | None
    accounts_per_s: float
    limit_used_pct: float | None
    retries: int


class Window(Struct, frozen=True, kw_only=True):
    """What happened from then on."""

    since: datetime
    seconds: float
    endpoints: Sequence[EndpointFigures]
    cache: CacheFigures
    database: WaitFigures
    scraping: Sequence[ScrapingFigures]


class Limits:
    """What the platforms allow: seconds between two calls, with all credentials together."""

    def __init__(self, settings: Settings, platforms: Iterable[Platform], spaces: Mapping[str, float]) -> None:
        """`spaces` are the seconds between two calls by the tasks' names, where they were set while running."""
        self._spaces: dict[tuple[str, Kind], float] = {}
        for platform in platforms:
            credentials = len(settings.credentials(platform))
            for kind, call in platform.calls.items():
                by_settings_s = settings.rate(platform, kind).interval_s * call.requests
                if credentials:
                    space_s = spaces.get(task_name(platform.name, kind), by_settings_s)
                    self._spaces[platform.name, kind] = space_s / credentials

    @property
    def calls(self) -> Collection[tuple[str, Kind]]:
        """Return what can be called: platforms with their kinds of call."""
        return self._spaces.keys()

    def used(self, platform: str, kind: Kind, calls: float, seconds: float) -> float | None:
        """Return which part of its calls a platform's limit allows were made; None where it can't be called."""
        space_s = self._spaces.get((platform, kind))
        return None if space_s is None else calls * space_s / seconds


class Sums:
    """Samples by their metric."""

    def __init__(self, samples: Iterable[Sample]) -> None:
        self._by_name: defaultdict[str, dict[tuple[str, ...], Sample]] = defaultdict(dict)
        for sample in samples:
            self._by_name[sample.name][sample.labels] = sample

    def of(self, metric: Metric) -> Mapping[tuple[str, ...], Sample]:
        return self._by_name[metric.name]

    def count(self, metric: Metric, *labels: str) -> int:
        sample = self.of(metric).get(labels)
        return round(sample.value) if sample else 0

    def classes(self, metric: Metric, *labels: str) -> Sequence[int]:
        sample = self.of(metric).get(labels)
        return (sample and sample.buckets) or (0,) * CLASSES


def window(samples: Iterable[Sample], limits: Limits, *, since: datetime, seconds: float) -> Window:
    """Return what these samples, of so many seconds, come to."""
    sums = Sums(samples)
    return Window(
        since=since,
        seconds=round(seconds, 1),
        endpoints=_endpoints(sums),
        cache=_cache(sums),
        database=_waits(sums),
        scraping=_scraping(sums, limits, seconds),
    )


def cache_counts(sums: Sums) -> dict[str, Counts]:
    """Return what the caches did, by endpoint, the ones asked most first."""
    found: defaultdict[str, Counts] = defaultdict(Counts)
    fields = {"miss": "misses"}
    for metric in (metrics.CACHE_ANSWERS, metrics.CACHE_LEFT):
        for (endpoint, what), sample in sums.of(metric).items():
            setattr(found[endpoint], fields.get(what, what), round(sample.value))
    return dict(sorted(found.items(), key=lambda item: -item[1].answers))


def _endpoints(sums: Sums) -> list[EndpointFigures]:
    by_status: defaultdict[str, dict[str, int]] = defaultdict(dict)
    for (endpoint, status), sample in sums.of(metrics.REQUESTS).items():
        by_status[endpoint][status] = round(sample.value)
    found = []
    for endpoint, counts in by_status.items():
        classes = sums.classes(metrics.REQUEST_TIME, endpoint)
        found.append(
            EndpointFigures(
                endpoint=endpoint,
                count=sum(counts.values()),
                errors=counts.get("5xx", 0),
                refused=counts.get("4xx", 0),
                p50_ms=_ms(classes, 0.5),
                p95_ms=_ms(classes, 0.95),
                p99_ms=_ms(classes, 0.99),
            )
        )
    return sorted(found, key=lambda one: (-one.count, one.endpoint))


def _cache(sums: Sums) -> CacheFigures:
    whole = stats.whole(cache_counts(sums))
    return CacheFigures(
        l1_hits=whole.l1,
        l2_hits=whole.l2,
        stale=whole.stale,
        misses=whole.misses,
        evictions=whole.evicted,
        purges=sums.count(metrics.CACHE_PURGES),
        hit_rate=_rounded(whole.hit_rate),
    )


def _waits(sums: Sums) -> WaitFigures:
    classes = sums.classes(metrics.READ_WAIT)
    at_once = metrics.class_of(_AT_ONCE_S)
    return WaitFigures(reads=sum(classes), waits=sum(classes[at_once + 1 :]), p95_ms=_ms(classes, 0.95))


def _scraping(sums: Sums, limits: Limits, seconds: float) -> list[ScrapingFigures]:
    calls: defaultdict[tuple[str, str], dict[Kind, int]] = defaultdict(dict)
    results: defaultdict[tuple[str, str], dict[str, int]] = defaultdict(dict)
    for (platform, kind, lane), sample in sums.of(metrics.CALLS).items():
        calls[platform, lane][kind] = round(sample.value)  # type: ignore[index]  # counted as the kinds are called
    for (platform, lane, result), sample in sums.of(metrics.ACCOUNTS).items():
        results[platform, lane][result] = round(sample.value)
    found = []
    for platform, lane in sorted(calls.keys() | results.keys(), key=lambda one: (one[0], _place(one[1]))):
        mine = calls[platform, lane]
        accounts = sum(results[platform, lane].values())
        used = [limits.used(platform, kind, count, seconds) for kind, count in mine.items()]
        known = [part for part in used if part is not None]
        classes = sums.classes(metrics.CALL_TIME, platform, lane)
        found.append(
            ScrapingFigures(
                platform=platform,
                queue=queue_name(platform, lane),  # type: ignore[arg-type]
                calls=sum(mine.values()),
                accounts=accounts,
                success_rate=_rounded(results[platform, lane].get("ok", 0) / accounts if accounts else None),
                p50_s=percentile_s(classes, 0.5),
                p95_s=percentile_s(classes, 0.95),
                accounts_per_s=round(accounts / seconds, 3),
                limit_used_pct=round(100 * max(known), 1) if known else None,
                retries=sums.count(metrics.RETRIES, platform, lane),
            )
        )
    return found


def _place(lane: str) -> int:
    return [*LANES].index(lane) if lane in LANES else len(LANES)


def _ms(classes: Sequence[int], share: float) -> float | None:
    seconds = percentile_s(classes, share)
    return None if seconds is None else float(f"{seconds * 1000:.3g}")


def _rounded(rate: float | None) -> float | None:
    return None if rate is None else round(rate, 4)
