"""/performance: what was counted, step by step and in sums, and what isn't known."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from api import profiling
from api.dashboard.performance import steps
from db.engine import Engine, reading, transaction
from db.metrics import Counted, Sample, over_time
from db.metrics import add as add_metrics
from pipeline import metrics
from pipeline.metrics import Times
from tests import fakes
from tests.serving import InProcess, in_process, wait_for, words

EVER = datetime(2000, 1, 1, tzinfo=UTC)


@pytest.fixture
def api(database_url: str, redis_url: str) -> Iterator[InProcess]:
    with in_process(fakes.settings(database_url, redis_url)) as api:
        yield api


def count(engine: Engine, number: int, *samples: Sample, age: timedelta = timedelta(0)) -> None:
    at = datetime.now(UTC) - age
    with transaction(engine) as conn:
        one = Counted(sender="tests", role="api", number=number, at=at, samples=samples)
        add_metrics(conn, [one], oldest=EVER)


def _cells(body: str) -> list[list[str]]:
    """Return the table of the first picture, newest row first."""
    picture = body.partition("<figure")[2].partition("</figure>")[0]
    rows = re.findall(r'<tr><th scope="row">.*?</tr>', picture)
    return [re.findall(r"<td[^>]*>([^<]*)</td>", row) for row in rows]


def timed(*took_s: float) -> Times:
    times = Times()
    for one in took_s:
        times.add(one)
    return times


def test_nothing_recorded_yet_is_said_plainly(api: InProcess) -> None:
    page = words(api, "/performance")
    assert "Nothing has been recorded yet: does `python -m workers.recorder` run?" in page
    assert "<svg" not in api.get("/performance").text.partition("<main")[2]


def test_the_sums_are_those_of_the_span(api: InProcess, engine: Engine) -> None:
    count(
        engine,
        1,
        metrics.REQUESTS.sample(1000, "/api/grid", "2xx"),
        metrics.CACHE_ANSWERS.sample(1000, "/api/grid", "miss"),
        age=timedelta(hours=3),
    )
    count(
        engine,
        2,
        metrics.REQUESTS.sample(90, "/api/summary", "2xx"),
        metrics.REQUESTS.sample(7, "/api/summary", "4xx"),
        metrics.REQUESTS.sample(3, "/api/summary", "5xx"),
        metrics.REQUEST_TIME.timed(timed(*[0.001] * 98, 0.1, 0.1), "/api/summary"),
        metrics.CACHE_ANSWERS.sample(60, "/api/summary", "l1"),
        metrics.CACHE_ANSWERS.sample(20, "/api/summary", "l2"),
        metrics.CACHE_ANSWERS.sample(20, "/api/summary", "miss"),
        metrics.CALLS.sample(3, "x", "profiles", "core"),
        metrics.ACCOUNTS.sample(297, "x", "core", "ok"),
        metrics.ACCOUNTS.sample(3, "x", "core", "failed"),
    )
    hour, day = words(api, "/performance"), words(api, "/performance?span=day")
    assert "100 requests in the last hour; 3 ended in an error of the server, 7 were refused." in hour
    assert "80.0 % of 100 cacheable answers came from a cache: 60 from memory, 20 from Redis" in hour
    assert "300 accounts were read or tried in the last hour." in hour
    assert "/api/grid" not in hour
    assert "x.core 3 300 99.0 %" in hour
    assert "1,100 requests in the last 24 hours" in day
    assert "/api/grid 1,000 0 0 – – –" in day, "nobody timed them: a dash"


def test_a_picture_has_its_sentence_and_its_table_with_the_same_numbers(api: InProcess, engine: Engine) -> None:
    count(engine, 1, metrics.REQUESTS.sample(1, "/api/summary", "2xx"), age=timedelta(minutes=40))
    count(engine, 2, metrics.REQUESTS.sample(5, "/api/summary", "2xx"), metrics.REQUESTS.sample(2, "none", "4xx"))
    body = api.get("/performance").text
    pictures = re.findall(r"<figure.*?</figure>", body, re.DOTALL)
    assert len(pictures) == 4
    for picture in pictures:
        assert re.search(r'<p class="sentence" id="[\w-]+">[^<]{20,}', picture)
        assert 'role="img"' in picture and "<table>" in picture
    cells = _cells(body)
    assert len(cells) == 60
    assert ["5", "0", "2", "0"] in cells[:2]
    assert cells[-1] == ["–"] * 4, "before the record began nothing is known"
    assert cells[20] == ["0"] * 4, "and later nothing came"


def test_a_recorder_that_is_behind_is_told_of(api: InProcess, engine: Engine) -> None:
    count(engine, 1, metrics.REQUESTS.sample(1, "/api/summary", "2xx"), age=timedelta(minutes=20))
    assert "The recorder is behind." in words(api, "/performance")
    cells = _cells(api.get("/performance").text)
    assert cells[0] == ["–"] * 4, "what is later isn't known"
    assert cells[20:22].count(["1", "0", "0", "0"]) == 1


def test_statements_say_how_they_are_switched_on(api: InProcess) -> None:
    assert "Set DB_PROFILE=true and restart it" in words(api, "/performance")


def test_statements_are_shown_where_they_are_counted(
    database_url: str, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(profiling, "EVERY_S", 0.2)
    monkeypatch.setattr("api.dashboard.performance.TTL_S", 0)
    with in_process(fakes.settings(database_url, redis_url, DB_PROFILE="true")) as api:
        assert api.get("/api/totals").status_code == 200
        wait_for(lambda: "SELECT" in words(api, "/performance"), "the first report")
        assert "DB_PROFILE" not in words(api, "/performance")


def test_without_redis_the_rest_is_still_shown(database_url: str, engine: Engine) -> None:
    count(engine, 1, metrics.REQUESTS.sample(4, "/api/summary", "2xx"))
    with in_process(fakes.settings(database_url, "redis://127.0.0.1:9")) as api:
        page = words(api, "/performance")
    assert "4 requests in the last hour" in page
    assert "Redis, which holds them, can't be reached." in page


def test_steps_end_with_the_running_one() -> None:
    now = datetime(2026, 3, 1, 12, 34, 56, tzinfo=UTC)
    hour, day = steps("hour", now), steps("day", now)
    assert (hour[0], hour[-1], len(hour)) == (now.replace(hour=11, minute=35, second=0), now.replace(second=0), 60)
    assert (day[-1], len(day)) == (now.replace(minute=0, second=0), 24)


def test_what_came_over_time_is_parted_by_a_label_and_summed_over_the_others(engine: Engine) -> None:
    at = datetime.now(UTC).replace(second=0, microsecond=0)
    count(
        engine,
        1,
        metrics.ACCOUNTS.sample(3, "x", "core", "ok"),
        metrics.ACCOUNTS.sample(2, "x", "retry", "failed"),
        metrics.ACCOUNTS.sample(7, "youtube", "core", "ok"),
        metrics.REQUEST_TIME.timed(timed(0.001), "/api/summary"),
        metrics.REQUEST_TIME.timed(timed(0.001, 0.1), "/api/grid"),
    )
    with reading(engine) as conn:
        wanted = {metrics.ACCOUNTS.name: 1, metrics.REQUEST_TIME.name: 0}
        found = over_time(conn, "minute", at - timedelta(minutes=1), wanted)
        assert over_time(conn, "hour", at + timedelta(hours=1), wanted) == []
    accounts = {point.label: point.value for point in found if point.name == metrics.ACCOUNTS.name}
    assert accounts == {"x": 5.0, "youtube": 7.0}
    (times,) = [point for point in found if point.name == metrics.REQUEST_TIME.name]
    assert (times.label, sum(times.buckets)) == ("", 3)
