"""A real Varnish before real gunicorn workers: it keeps what is public, and nothing longer than a commit lets it."""

import gzip
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import brotli
import pytest
import redis
import zstandard
from msgspec import Struct
from sqlalchemy import text

from db import tags
from db.engine import Engine, transaction
from pipeline import cdn, cdn_purges, cdn_queue
from pipeline.messages import Purger
from tests import fakes
from tests.serving import Gunicorn, add_account, gunicorn, keep, purger, wait_for
from tests.varnish import HOW_TO_GET_IT, Varnish, free_port, varnish, varnishd

pytestmark = pytest.mark.skipif(varnishd() is None, reason=HOW_TO_GET_IT)

GOOSE, SWAN = "/api/accounts/x/goose", "/api/accounts/x/swan"


class Front(Struct, frozen=True):
    """Varnish, the API behind it, and what purges."""

    varnish: Varnish
    api: Gunicorn
    purger: Purger
    accounts: dict[str, int]
    redis: Any

    def purge(self, *names: str) -> None:
        """Purge, and return when Varnish was told."""
        self.purger.purge(names)
        wait_for(lambda: not waiting(self.redis), "the purge to be told")

    def keeps(self, path: str, **headers: str) -> bool:
        """Ask twice, and tell whether the second answer is the first one, kept."""
        self.varnish.get(path, **headers)
        return self.varnish.get(path, **headers).is_hit

    def followers(self, name: str) -> int | None:
        found = json.loads(self.varnish.get("/api/summary").body)["items"]
        return next(item["followers"] for item in found if item["handle"] == name)


@contextmanager
def front(
    database_url: str, redis_url: str, engine: Engine, folder: Path, *, workers: int = 1, **environ: str
) -> Iterator[Front]:
    with transaction(engine) as conn:
        accounts = {name: add_account(conn, f"x/{name}", display_name=name) for name in ("goose", "swan")}
        for key in accounts.values():
            keep(conn, key, 1)
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    settings = fakes.settings(database_url, redis_url, CDN_VARNISH_URLS=url)
    stop = threading.Event()
    with (
        gunicorn(database_url, redis_url, folder, workers=workers, CDN_VARNISH_URLS=url, **environ) as api,
        varnish(port, api.port, folder) as server,
        redis.Redis.from_url(redis_url) as client,
    ):
        threads = cdn_purges.start(cdn.configured(settings), client, stop)
        try:
            # It begins by having Varnish forget everything.
            wait_for(lambda: client.zcard(cdn_queue.TARGETS_KEY) and not waiting(client), "the purges to be told")
            yield Front(server, api, purger(settings), accounts, client)
        finally:
            stop.set()
            for thread in threads:
                thread.join()


def waiting(client: Any) -> int:
    return sum(client.zcard(name) for name in client.scan_iter(f"{cdn_queue.WAITING_KEY}*"))


@pytest.fixture
def before(database_url: str, redis_url: str, engine: Engine, tmp_path: Path) -> Iterator[Front]:
    with front(database_url, redis_url, engine, tmp_path) as found:
        yield found


def rename(engine: Engine, key: int, name: str) -> None:
    with transaction(engine) as conn:
        conn.execute(text("UPDATE dim_account SET display_name = :n WHERE account_key = :k"), {"n": name, "k": key})


def display_name(front: Front, path: str) -> str:
    return str(json.loads(front.varnish.get(path).body)["display_name"])


def test_after_a_commit_and_its_purge_varnish_shows_the_new_account_and_keeps_the_other(
    before: Front, engine: Engine
) -> None:
    goose = tags.account(before.accounts["goose"])
    assert all(before.keeps(path) for path in (GOOSE, SWAN, "/api/history/x/goose"))

    rename(engine, before.accounts["goose"], "grey goose")
    before.purge(goose)

    assert display_name(before, GOOSE) == "grey goose"
    assert "grey goose" in before.varnish.get("/api/history/x/goose").body.decode()
    assert before.varnish.get(SWAN).is_hit, "another account's purge took it"
    assert before.keeps(GOOSE)


def test_readers_never_see_an_account_longer_than_until_its_second_purge(
    database_url: str, redis_url: str, engine: Engine, tmp_path: Path
) -> None:
    """Readers ask two API processes through Varnish all the time, so that answers and purges overtake each other."""
    with front(database_url, redis_url, engine, tmp_path, workers=2) as before:
        key, stop = before.accounts["goose"], threading.Event()
        committed: list[float] = []
        seen: list[tuple[float, int]] = []

        def read() -> None:
            while not stop.is_set():
                asked_at = time.monotonic()
                seen.append((asked_at, int(display_name(before, GOOSE))))

        rename(engine, key, "0")
        before.purge(tags.account(key))
        committed.append(time.monotonic())
        threads = [threading.Thread(target=read) for _ in range(4)]
        for thread in threads:
            thread.start()
        for number in range(1, 30):
            rename(engine, key, str(number))
            before.purger.purge({tags.account(key)})
            committed.append(time.monotonic())
            wait_for(lambda: number in {value for _, value in seen[-50:]}, "a reader to see it")  # noqa: B023
        stop.set()
        for thread in threads:
            thread.join()

    overdue = [
        asked_at - committed[value + 1] for asked_at, value in seen if value < 29 and asked_at > committed[value + 1]
    ]
    assert {value for _, value in seen} >= set(range(1, 29))
    assert max(overdue, default=0.0) < cdn_purges.AGAIN_S + 5


def test_an_aggregate_follows_its_purge_and_the_old_one_serves_for_a_moment_while_it_is_fetched(
    before: Front, engine: Engine
) -> None:
    assert before.keeps("/api/summary") and before.keeps(GOOSE)

    with transaction(engine) as conn:
        keep(conn, before.accounts["goose"], 2)
    before.purge(tags.SUMMARY)
    seen: list[int | None] = []
    wait_for(lambda: seen.append(before.followers("goose")) or seen[-1] == 2, "the new number")
    assert seen[0] == 1, "nobody waits for a new one that was asked for just now"

    with transaction(engine) as conn:
        keep(conn, before.accounts["goose"], 3)
    before.purge(tags.SUMMARY)
    time.sleep(2.5)  # longer than the moment
    assert before.followers("goose") == 3
    assert before.varnish.get(GOOSE).is_hit


def test_each_encoding_is_kept_by_itself_and_comes_out_as_the_api_made_it(before: Front) -> None:
    plain = before.varnish.get("/api/summary").body
    decoders = {
        "zstd": lambda body: zstandard.ZstdDecompressor().decompress(body),
        "br": brotli.decompress,
        "gzip": gzip.decompress,
    }
    etags = set()
    for encoding, decode in decoders.items():
        first, second = (before.varnish.get("/api/summary", Accept_Encoding=encoding) for _ in range(2))
        assert [one.headers["content-encoding"] for one in (first, second)] == [encoding] * 2
        assert second.is_hit and decode(second.body) == decode(first.body) == plain
        etags.add(second.headers["etag"])
    assert len(etags) == 3
    # What a browser sends is one entry with what asks for the best of it alone.
    assert before.varnish.get("/api/summary", Accept_Encoding="gzip, deflate, br, zstd").is_hit
    assert before.varnish.get("/api/summary", Accept_Encoding="deflate").body == plain
    weighed = before.varnish.get("/api/summary", Accept_Encoding="zstd;q=0, gzip;q=0.5")
    assert weighed.headers["content-encoding"] == "gzip"


def test_each_format_is_kept_once_however_it_is_asked_for_and_is_what_the_api_gives(before: Front) -> None:
    browser = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8"
    alike = {
        "application/json": [
            "",
            "*/*",
            browser,
            "application/*",
            "text/csv, */*",
            "Application/JSON, text/csv",
            "image/png",
        ],
        "application/x-ndjson": [
            "application/x-ndjson",
            "text/csv,application/x-NDJSON",
            "application/x-ndjson, text/html",
        ],
        "text/csv; charset=utf-8": ["text/csv", "text/*", "TEXT/CSV , image/png"],
    }
    bodies = set()
    for media_type, spellings in alike.items():
        before.varnish.get("/api/summary", Accept=spellings[0])
        for accept in spellings:
            answer = before.varnish.get("/api/summary", Accept=accept)
            direct = before.api.get("/api/summary", Accept=accept)
            assert (answer.is_hit, answer.headers["content-type"]) == (True, media_type), accept
            assert answer.body == direct[2], accept
        bodies.add(answer.body)
    assert len(bodies) == 3
    # Weights are the API's to judge.
    weighed = before.varnish.get("/api/summary", Accept="application/json;q=0.5, text/csv")
    assert weighed.headers["content-type"] == "text/csv; charset=utf-8"


def test_a_known_answer_is_a_304_and_browsers_are_told_to_ask_each_time(before: Front) -> None:
    answer = before.varnish.get("/api/summary", Accept_Encoding="br")
    again = before.varnish.get("/api/summary", Accept_Encoding="br", If_None_Match=answer.headers["etag"])

    assert (again.status, again.body, again.is_hit) == (304, b"", True)
    assert answer.headers["cache-control"] == "public, no-cache"
    assert "surrogate-control" not in answer.headers and "age" not in answer.headers
    head = before.varnish.get("/api/summary", method="HEAD", Accept_Encoding="br")
    assert head.is_hit and head.headers["etag"] == answer.headers["etag"]


def test_the_order_of_parameters_and_foreign_cookies_make_no_new_entry_and_each_request_has_its_id(
    before: Front,
) -> None:
    assert before.keeps("/api/summary?platform=x&per_page=10", X_Request_ID="mine-1")

    again = before.varnish.get("/api/summary?per_page=10&platform=x", Cookie="a=b", X_Request_ID="mine-2")
    other = before.varnish.get("/api/summary?per_page=10&platform=x")

    assert again.is_hit and again.headers["x-request-id"] == "mine-2"
    assert other.is_hit and other.headers["x-request-id"] not in ("mine-1", "mine-2")


def test_what_has_an_authorization_passes_and_so_does_what_is_no_reading(before: Front) -> None:
    assert before.keeps("/api/summary")

    asked = before.varnish.get("/api/summary", Authorization="Bearer rc_some")
    assert (asked.is_hit, asked.headers["cache-control"]) == (False, "private, no-cache")
    assert not before.keeps("/api/accounts", Authorization="Bearer rc_some")
    assert before.varnish.get("/api/refresh", method="POST").status == 401
    assert not before.keeps("/readyz")


def test_errors_are_not_kept(before: Front, engine: Engine) -> None:
    assert not before.keeps("/api/accounts/x/heron")
    assert not before.keeps("/api/summary?per_page=many")
    assert not before.keeps("/nowhere")
    assert before.varnish.get("/api/export/nothing").status == 404, "it's piped"

    with transaction(engine) as conn:
        add_account(conn, "x/heron")
    before.purge(tags.NAMES)
    assert before.varnish.get("/api/accounts/x/heron").status == 200


def test_only_machines_of_the_list_purge(before: Front) -> None:
    assert before.keeps(GOOSE)
    tag = tags.account(before.accounts["goose"])

    through_a_proxy = before.varnish.get("/", method="PURGE", xkey_purge=tag, X_Forwarded_For="203.0.113.9")
    assert through_a_proxy.status == 403 and before.varnish.get(GOOSE).is_hit
    assert before.varnish.get("/", method="PURGE").status == 400
    purged = before.varnish.get("/", method="PURGE", xkey_purge=f"{tag} platform:x")
    assert (purged.status, purged.headers["xkey-purged"]) == (200, "1")
    assert not before.varnish.get(GOOSE).is_hit


def test_while_the_api_is_down_what_was_kept_is_served_even_past_its_purge(before: Front) -> None:
    assert before.keeps("/api/summary") and before.keeps(SWAN)

    before.api.process.terminate()
    before.api.process.wait()
    before.purge(tags.SUMMARY)
    time.sleep(2.5)  # longer than the moment for which it serves beside an API that is up

    assert before.varnish.get(SWAN).status == 200
    assert before.followers("goose") == 1
    gone = before.varnish.get(GOOSE)
    assert gone.status == 503 and gone.headers["content-type"] == "application/problem+json"
    assert json.loads(gone.body)["status"] == 503


def test_an_api_in_trouble_is_as_good_as_none(
    database_url: str, redis_url: str, engine: Engine, tmp_path: Path
) -> None:
    with (
        front(database_url, redis_url, engine, tmp_path, DB_READ_TIMEOUT_S="0.5") as before,
        engine.connect() as blocking,
    ):
        assert before.keeps("/api/summary")
        blocking.execute(text("LOCK TABLE account_latest IN ACCESS EXCLUSIVE MODE"))
        before.purge(tags.SUMMARY)
        time.sleep(2.5)  # longer than the moment for which it serves in any case

        answer = before.varnish.get("/api/summary")
        assert answer.status == 200 and answer.is_hit
        assert before.varnish.get("/api/summary?per_page=7").status >= 500
        blocking.rollback()
        wait_for(lambda: before.varnish.get("/api/summary?per_page=7").status == 200, "the database to be free")


def test_an_answer_that_its_purge_overtakes_is_not_kept(before: Front, engine: Engine) -> None:
    """The race: a read sees the old row, the commit and its purge pass, and only then the answer reaches Varnish."""
    key = before.accounts["goose"]
    slow: list[int] = []
    with engine.connect() as blocking:
        # The history reads the account first, then waits here for the notes.
        blocking.execute(text("LOCK TABLE annotation IN ACCESS EXCLUSIVE MODE"))
        thread = threading.Thread(target=lambda: slow.append(before.varnish.get("/api/history/x/goose").status))
        thread.start()
        wait_for(lambda: _waits(engine), "the read to wait for the lock")
        rename(engine, key, "grey goose")
        before.purge(tags.account(key))
        blocking.rollback()
    thread.join()

    assert slow == [200]
    shown = json.loads(before.varnish.get("/api/history/x/goose").body)["account"]["display_name"]
    assert shown == "grey goose"


def _waits(engine: Engine) -> bool:
    with engine.connect() as conn:
        return bool(conn.execute(text("SELECT count(*) FROM pg_locks WHERE NOT granted")).scalar_one())


def test_what_needs_a_key_is_kept_by_no_varnish(
    database_url: str, redis_url: str, engine: Engine, tmp_path: Path
) -> None:
    with front(database_url, redis_url, engine, tmp_path, API_REQUIRE_KEY="true") as closed:
        assert closed.varnish.get("/api/summary").status == 401
        assert not closed.keeps("/api/summary")
