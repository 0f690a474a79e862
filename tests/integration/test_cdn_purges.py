"""What a CDN is told of purges: once, soon, as its API wants it, and in the end even if it was away."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import redis
from msgspec import Struct
from pytest_httpserver import HTTPServer
from redis import Redis
from structlog.testing import capture_logs
from werkzeug import Request, Response

from db import tags
from pipeline import beat, cdn, cdn_purges, cdn_queue, doctor
from pipeline.cdn import Cdn, CdnError
from pipeline.cdn_purges import AGAIN_S, AGGREGATE_S, WINDOW_S, Teller
from pipeline.cdn_queue import Waiting
from pipeline.messages import Purger
from pipeline.settings import Settings
from tests import fakes
from tests.serving import purger, wait_for

TOKEN = "secret-token-of-fastly"


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Told(Struct):
    """What a CDN was told, and whether it takes anything."""

    name: str = "told"
    mend: str = ""
    calls: list[tuple[frozenset[str], bool]] = []
    is_away: bool = False
    meanwhile: Callable[[], None] = lambda: None

    def purge(self, tags: Sequence[str], *, soft: bool) -> None:
        if self.is_away:
            raise CdnError("is away")
        self.meanwhile()
        self.calls.append((frozenset(tags), soft))

    def heard(self) -> list[tuple[set[str], bool]]:
        """Return what it was told since it was last asked."""
        calls, self.calls = self.calls, []
        return [(set(names), soft) for names, soft in calls]


class Waited:
    """A teller and its clock: `tell` lets what waits wait as long as it must."""

    def __init__(self, cdn: Cdn, client: Redis, clock: Clock) -> None:
        self._teller = Teller(cdn, client, clock=clock)
        self._clock = clock

    def tell(self) -> None:
        self._teller.tell()
        self._clock.now += WINDOW_S
        self._teller.tell()


@pytest.fixture
def client(redis_url: str) -> Iterator[Any]:
    with redis.Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
def purge(redis_url: str) -> Purger:
    return purger(fakes.settings("postgresql://nowhere/none", redis_url))


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def teller(client: Redis, told: Told, clock: Clock) -> Waited:
    """Return what tells `told`, after it was told to forget everything at its start, and once more."""
    teller = Waited(told, client, clock)
    teller.tell()
    clock.now += AGAIN_S
    teller.tell()
    assert told.heard() == [({tags.EVERYTHING}, True)] * 2
    return teller


def with_fastly(server: HTTPServer, redis_url: str, database_url: str = "postgresql://nowhere/none") -> Settings:
    return fakes.settings(
        database_url,
        redis_url,
        CDN_FASTLY_SERVICE_ID="SU1Z0isxPaozGVKXdv0eY",
        FASTLY_API_TOKEN=TOKEN,
        CDN_FASTLY_URL=server.url_for(""),
    )


def test_fastly_is_asked_as_its_api_wants_and_never_with_too_many_tags(
    httpserver: HTTPServer, client: Redis, purge: Purger, redis_url: str
) -> None:
    httpserver.expect_request(
        "/service/SU1Z0isxPaozGVKXdv0eY/purge", method="POST", headers={"Fastly-Key": TOKEN}
    ).respond_with_json({})
    [fastly] = cdn.configured(with_fastly(httpserver, redis_url))
    teller = Waited(fastly, client, Clock())
    teller.tell()
    httpserver.clear_log()
    accounts = {tags.account(key) for key in range(600)}

    purge.purge(accounts | {tags.SUMMARY, tags.ACCOUNTS})
    teller.tell()

    asked = [request for request, _ in httpserver.log]
    assert [request.headers.get("Fastly-Soft-Purge") for request in asked] == [None, None, None, "1"]
    named = [request.headers["Surrogate-Key"].split() for request in asked]
    assert set(named[3]) == {tags.SUMMARY, tags.ACCOUNTS}
    assert all(len(names) <= 256 for names in named)
    assert sorted(name for names in named[:3] for name in names) == sorted(accounts)
    httpserver.check()


def test_a_tag_that_was_purged_often_is_told_once_and_once_more_for_what_was_on_its_way(
    purge: Purger, teller: Waited, told: Told, clock: Clock
) -> None:
    for _ in range(5):
        purge.purge({"account:1"})
    teller.tell()
    assert told.heard() == [({"account:1"}, False)]
    clock.now += AGAIN_S - 3 * WINDOW_S
    teller.tell()
    assert told.heard() == []
    clock.now += 2 * WINDOW_S
    teller.tell()
    assert told.heard() == [({"account:1"}, False)]
    clock.now += AGAIN_S * 2
    teller.tell()
    assert told.heard() == []


def test_aggregates_wait_their_time_and_accounts_do_not(
    purge: Purger, teller: Waited, told: Told, clock: Clock
) -> None:
    began = clock.now
    summaries = 0
    for number in range(80):
        purge.purge({tags.account(number), tags.SUMMARY})
        teller.tell()
        heard = told.heard()
        assert ({tags.account(number)}, False) in [(names & {tags.account(number)}, soft) for names, soft in heard]
        summaries += sum(tags.SUMMARY in names for names, _ in heard)
    assert summaries == (clock.now - began) // AGGREGATE_S
    clock.now += AGGREGATE_S
    teller.tell()
    assert any(tags.SUMMARY in names for names, _ in told.heard()), "the last change was never told"


def test_what_is_purged_while_it_is_being_sent_is_sent_again(purge: Purger, teller: Waited, told: Told) -> None:
    told.meanwhile = lambda: purge.purge({"account:1"})
    purge.purge({"account:1"})
    teller.tell()
    told.meanwhile = lambda: None
    teller.tell()
    assert told.heard() == [({"account:1"}, False)] * 2
    teller.tell()
    assert told.heard() == []


def test_each_purge_waits_until_the_api_has_heard_of_it_and_none_is_put_off_by_further_ones(
    purge: Purger, told: Told, client: Redis, clock: Clock
) -> None:
    teller = Teller(told, client, clock=clock)
    sent: list[float] = []
    last = clock.now
    for _ in range(40):
        purge.purge({"account:1"})
        last = clock.now
        teller.tell()
        sent += [clock.now] * len([names for names, _ in told.heard() if "account:1" in names])
        clock.now += WINDOW_S / 4
    assert len(sent) >= 5
    while clock.now < last + 3 * WINDOW_S:
        teller.tell()
        sent += [clock.now] * len([names for names, _ in told.heard() if "account:1" in names])
        clock.now += WINDOW_S / 4
    assert sent[-1] >= last + WINDOW_S, "nothing was told after the API had heard of the last purge"


def test_more_than_a_queue_holds_becomes_one_purge_of_everything(
    purge: Purger, teller: Waited, told: Told, client: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    told.is_away = True
    for start in range(0, cdn_queue.MOST_WAITING * 3, 1000):
        purge.purge({tags.account(start + number) for number in range(1000)})
        assert client.zcard("rollcall:cdn:waiting:told") <= cdn_queue.MOST_WAITING
    told.is_away = False
    teller.tell()
    assert ({tags.EVERYTHING}, True) in told.heard()


def test_a_purge_larger_than_any_queue_is_one_of_everything(purge: Purger, teller: Waited, told: Told) -> None:
    purge.purge({tags.account(number) for number in range(cdn_queue.MOST_WAITING + 1)})
    teller.tell()
    assert told.heard() == [({tags.EVERYTHING}, True)]


def test_after_redis_lost_its_memory_the_cdn_forgets_everything(
    purge: Purger, teller: Waited, told: Told, clock: Clock, client: Redis
) -> None:
    client.flushall()
    purge.purge({"account:1"})  # in the moment in which nobody speaks for the CDN
    clock.now += 1
    teller.tell()  # its lease is gone, too
    clock.now += 1
    teller.tell()
    assert told.heard() == [({tags.EVERYTHING}, True)]


def test_purges_wait_for_a_beat_that_is_restarted(
    purge: Purger, teller: Waited, told: Told, clock: Clock, client: Redis
) -> None:
    client.delete("rollcall:cdn:lease:told")
    purge.purge({"account:1"})
    Waited(told, client, clock).tell()
    assert told.heard() == [({"account:1"}, False)]


def test_without_a_cdn_nothing_is_gathered(purge: Purger, client: Redis) -> None:
    purge.purge({"account:1", tags.SUMMARY})
    assert client.keys("rollcall:cdn:*") == []


def test_of_two_beats_one_tells_and_the_other_takes_over(
    redis_url: str, purge: Purger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cdn_purges, "LEASE_S", 0.5)
    monkeypatch.setattr(cdn_purges, "_RENEW_S", 0.1)
    first, second = Told(calls=[]), Told(calls=[])
    stops = threading.Event(), threading.Event()
    threads: list[threading.Thread] = []

    def begin(one: Cdn, stop: threading.Event) -> None:
        threads.extend(cdn_purges.start([one], Redis.from_url(redis_url), stop))

    begin(first, stops[0])
    wait_for(lambda: first.heard(), "the first to lead")
    begin(second, stops[1])
    for number in range(5):
        purge.purge({tags.account(number)})
        wait_for(lambda: any(tags.account(number) in names for names, _ in first.heard()), "the purge")  # noqa: B023
    assert second.heard() == []

    stops[0].set()
    threads[0].join()
    purge.purge({"account:9"})
    wait_for(lambda: any("account:9" in names for names, _ in second.heard()), "the second to take over")
    stops[1].set()
    threads[1].join()


def test_a_cdn_that_is_away_delays_nobody_is_named_once_and_hears_all_when_it_is_back(
    httpserver: HTTPServer, redis_url: str, purge: Purger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cdn_purges, "LONGEST_RETRY_S", 0.2)
    answers = [Response(status=503)]
    heard: set[str] = set()
    refused = 0

    def answer(request: Request) -> Response:
        nonlocal refused
        assert request.headers["Fastly-Key"] == TOKEN
        if answers[0].status_code == 200:
            heard.update(request.headers["Surrogate-Key"].split())
        else:
            refused += 1
        return answers[0]

    httpserver.expect_request("/service/SU1Z0isxPaozGVKXdv0eY/purge").respond_with_handler(answer)
    stop = threading.Event()
    with capture_logs() as logged, Redis.from_url(redis_url) as client:
        threads = cdn_purges.start(cdn.configured(with_fastly(httpserver, redis_url)), client, stop)
        wait_for(lambda: refused, "a purge to be refused")
        for number in range(300):
            purge.purge({tags.account(number), tags.SUMMARY})
        wait_for(lambda: refused > 5, "further tries")
        answers[0] = Response(status=200)
        wait_for(lambda: {tags.account(number) for number in range(300)} <= heard, "every purge")
        wait_for(lambda: tags.SUMMARY in heard, "the aggregate's purge")
        stop.set()
        for thread in threads:
            thread.join()

    said = [line for line in logged if line["event"].startswith("cdn_")]
    assert [line["event"] for line in said] == ["cdn_behind", "cdn_caught_up"]
    assert said[0]["error"] == "answers 503" and said[0]["cdn"] == "fastly:SU1Z0isxPaozGVKXdv0eY"
    assert TOKEN not in str(logged)


def test_what_takes_a_connection_and_says_nothing_holds_up_neither_purges_nor_another_cdn(
    redis_url: str, purge: Purger
) -> None:
    release = threading.Event()
    mute, well = Told(name="mute", calls=[], meanwhile=lambda: release.wait(20)), Told(name="well", calls=[])
    stop = threading.Event()
    with Redis.from_url(redis_url) as client:
        threads = cdn_purges.start([mute, well], client, stop)
        wait_for(lambda: well.heard(), "the well one to be told to forget")
        began = time.monotonic()
        purge.purge({"account:1"})
        wait_for(lambda: any("account:1" in names for names, _ in well.heard()), "the purge")
        assert time.monotonic() - began < 10 and not release.is_set()
        release.set()
        wait_for(lambda: any("account:1" in names for names, _ in mute.heard()), "the purge to the slow one")
        stop.set()
        for thread in threads:
            thread.join()


def test_beat_tells_the_cdn(httpserver: HTTPServer, database_url: str, redis_url: str, purge: Purger) -> None:
    httpserver.expect_request("/service/SU1Z0isxPaozGVKXdv0eY/purge").respond_with_json({})
    stop = threading.Event()
    thread = threading.Thread(target=beat.run, args=(with_fastly(httpserver, redis_url, database_url), stop))
    thread.start()
    try:
        wait_for(lambda: httpserver.log, "the first word")
        purge.purge({"account:7"})
        wait_for(
            lambda: any("account:7" in request.headers["Surrogate-Key"].split() for request, _ in httpserver.log),
            "the purge",
        )
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize(("status", "says"), [(403, "refuses (403)"), (502, "answers 502")])
def test_doctor_says_that_a_cdn_takes_no_purges(
    httpserver: HTTPServer, redis_url: str, status: int, says: str
) -> None:
    httpserver.expect_request("/service/SU1Z0isxPaozGVKXdv0eY/purge").respond_with_data("", status=status)

    [finding] = doctor.cdns(with_fastly(httpserver, redis_url))

    assert (finding.level, finding.said) == ("fail", says)
    assert TOKEN not in str(finding) and "FASTLY_API_TOKEN" in str(finding.mend)


def test_doctor_says_whether_a_cdn_is_told_of_purges(httpserver: HTTPServer, redis_url: str, client: Redis) -> None:
    httpserver.expect_request("/service/SU1Z0isxPaozGVKXdv0eY/purge").respond_with_json({})
    settings = with_fastly(httpserver, redis_url)

    [before] = doctor.cdns(settings)
    Waiting(client, "fastly:SU1Z0isxPaozGVKXdv0eY").announce()
    [after] = doctor.cdns(settings)

    assert (before.level, before.said) == ("fail", "takes purges, but nobody sends it any")
    assert (after.level, after.said) == ("ok", "takes purges")


def test_a_server_that_answers_purges_without_knowing_tags_is_no_cdn(httpserver: HTTPServer, redis_url: str) -> None:
    httpserver.expect_request("/", method="PURGE").respond_with_data("purged")
    settings = fakes.settings(
        "postgresql://nowhere/none", redis_url, CDN_VARNISH_URLS=f"{httpserver.url_for('')}, http://127.0.0.1:1"
    )

    other, away = doctor.cdns(settings)

    assert (other.level, other.said) == ("fail", "answers, but doesn't purge by tag")
    assert (away.level, away.said) == ("fail", "can't be reached")
