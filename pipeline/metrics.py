"""Every metric by its name, with what it means and which labels it has. Nothing else is counted, sent or shown.

Labels are closed sets: platforms, lanes, the addresses' templates and the like, never a handle, a key or a process.
What processes count comes to the recorder in messages (`pipeline.outbox`) and is shown for the whole fleet; gauges are
looked up when somebody asks.
"""

import math
from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate
from typing import Literal

from msgspec import Struct

from db.metrics import BOUNDS, CLASSES, Sample

# A percentile is the middle of its class, and the classes' bounds are at most half as much again apart.
ERROR_PCT = 23


class Metric(Struct, frozen=True):
    """One metric. A timer counts times (seconds) by class; a gauge says how things stand."""

    name: str
    kind: Literal["counter", "timer", "gauge"]
    help: str
    labels: tuple[str, ...] = ()

    def sample(self, value: float, *labels: str) -> Sample:
        """Return how much a series of a counter gained, or how a gauge stands; `labels` as they are declared."""
        assert len(labels) == len(self.labels), self.name
        return Sample(self.name, labels, value)

    def timed(self, times: "Times", *labels: str) -> Sample:
        """Return what a series of a timer gained."""
        assert len(labels) == len(self.labels), self.name
        return Sample(self.name, labels, times.seconds, tuple(times.classes))


def class_of(took_s: float) -> int:
    """Return the class that a time is counted in: the first whose bound it doesn't exceed."""
    return bisect_left(BOUNDS, took_s)


class Times:
    """Times, counted by class. Used by one thread."""

    __slots__ = ("classes", "seconds")

    def __init__(self) -> None:
        self.seconds = 0.0
        self.classes = [0] * CLASSES

    def add(self, took_s: float) -> None:
        self.seconds += took_s
        self.classes[class_of(took_s)] += 1

    def merge(self, other: "Times") -> None:
        self.seconds += other.seconds
        self.classes = [mine + more for mine, more in zip(self.classes, other.classes, strict=True)]


def percentile_s(classes: Sequence[int], share: float) -> float | None:
    """Return the time (s) within which this share ended, right to `ERROR_PCT`; None when nothing was timed.

    What took longer than all bounds is said to have taken as long as the last one.
    """
    up_to = list(accumulate(classes))
    if not up_to[-1]:
        return None
    place = bisect_left(up_to, math.ceil(up_to[-1] * share))
    if place == len(BOUNDS):
        return BOUNDS[-1]
    low = BOUNDS[place - 1] if place else BOUNDS[0] / 1.5
    return float(f"{math.sqrt(low * BOUNDS[place]):.3g}")


REQUESTS = Metric(
    "rollcall_http_requests_total", "counter", "Requests answered, by class of status", ("endpoint", "status")
)
REQUEST_TIME = Metric(
    "rollcall_http_request_duration_seconds", "timer", "Time from a request to its answer's head", ("endpoint",)
)
CACHE_ANSWERS = Metric(
    "rollcall_cache_answers_total",
    "counter",
    "Cacheable answers, by where they came from: l1, l2, stale or miss",
    ("endpoint", "level"),
)
# Why an answer leaves the memory of a process.
LEFT = ("evicted", "expired", "purged")
CACHE_LEFT = Metric(
    "rollcall_cache_left_total",
    "counter",
    "Answers that left the memory of an API process: evicted for want of room, expired or purged",
    ("endpoint", "reason"),
)
CACHE_PURGES = Metric("rollcall_cache_purges_total", "counter", "Purges heard, each by every API process")
READ_WAIT = Metric(
    "rollcall_database_wait_seconds", "timer", "Time that a read of the API waited for a thread and its connection"
)
POOL_IN_USE = Metric("rollcall_database_pool_in_use", "gauge", "Connections to the database that API processes use")
POOL_SIZE = Metric("rollcall_database_pool_size", "gauge", "Connections that API processes may open")
API_PROCESSES = Metric("rollcall_api_processes", "gauge", "API processes heard of in the last 30 seconds")

JOBS = Metric(
    "rollcall_jobs_total", "counter", "Jobs that a worker was done with", ("platform", "kind", "lane", "outcome")
)
CALLS = Metric("rollcall_scrape_calls_total", "counter", "Calls made to platforms", ("platform", "kind", "lane"))
CALL_TIME = Metric(
    "rollcall_scrape_duration_seconds",
    "timer",
    "Time of a job with a call, from taking it to its commit",
    ("platform", "lane"),
)
ACCOUNTS = Metric(
    "rollcall_scrape_accounts_total",
    "counter",
    "Accounts that jobs came to an end with: ok, gone, failed or blocked",
    ("platform", "lane", "result"),
)
RETRIES = Metric(
    "rollcall_scrape_retried_accounts_total",
    "counter",
    "Accounts among them whose last attempt had failed",
    ("platform", "lane"),
)

QUEUED = Metric("rollcall_queue_jobs", "gauge", "Jobs that wait for a worker", ("platform", "lane"))
QUEUED_ACCOUNTS = Metric("rollcall_queue_accounts", "gauge", "Accounts in these jobs", ("platform", "lane"))
OLDEST_QUEUED = Metric(
    "rollcall_queue_oldest_seconds", "gauge", "Age of the oldest job that waits for a worker", ("platform", "lane")
)
OVERDUE = Metric(
    "rollcall_due_oldest_seconds",
    "gauge",
    "How long the account that has been due longest waits to be put into a job",
    ("platform", "lane"),
)
RUNNING = Metric("rollcall_jobs_running", "gauge", "Jobs that workers hold by a lease", ("platform",))
LEASES_OVER = Metric(
    "rollcall_leases_expired", "gauge", "Open jobs whose lease is over: to be given out again", ("platform",)
)
PAUSES = Metric(
    "rollcall_pauses", "gauge", "Credentials that rest: limited, quota or blocked", ("platform", "result")
)
LIMIT_USED = Metric(
    "rollcall_limit_used_ratio",
    "gauge",
    "Calls of the last five minutes as a share of what the limit allows",
    ("platform", "kind"),
)
RECORDED_AT = Metric(
    "rollcall_recorded_timestamp_seconds", "gauge", "Time of the newest minute that the recorder has kept"
)

ALL: tuple[Metric, ...] = tuple(one for one in list(globals().values()) if isinstance(one, Metric))
BY_NAME = {metric.name: metric for metric in ALL}
