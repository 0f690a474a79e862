"""A collector as it is often written: threads, one request and one commit per account, no queue.

For each line `accounts batch` of its standard input it reads so many accounts of X and tells what that took. With a
batch of more than one it asks X for as many at once and commits them together, as a careful author would.
"""

import json
import os
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import psycopg2
import requests
from psycopg2.extras import execute_values

THREADS = int(os.environ["PEER_THREADS"])
URL = os.environ["SIMULATOR_URL"] + "/x/2/users"
DATABASE = os.environ["DATABASE_URL"].replace("postgresql+psycopg2://", "postgresql://", 1)
KEEP = """
    INSERT INTO peer_snapshot (account_key, snapshot_date, followers, following, posts, captured_at) VALUES %s
    ON CONFLICT (account_key, snapshot_date) DO UPDATE SET followers = excluded.followers,
        following = excluded.following, posts = excluded.posts, captured_at = excluded.captured_at
"""
_own = threading.local()


def begin() -> None:
    """Give each thread its own session and connection."""
    _own.http = requests.Session()
    _own.http.headers["Authorization"] = "Bearer simulated"
    _own.database = psycopg2.connect(DATABASE)


def read(accounts: Sequence[tuple[int, str]]) -> None:
    """Ask X for these accounts, keep their numbers of today, commit."""
    ids = ",".join(external_id for _, external_id in accounts)
    answer = _own.http.get(URL, params={"ids": ids, "user.fields": "public_metrics"}, timeout=30)
    answer.raise_for_status()
    found = {user["id"]: user["public_metrics"] for user in answer.json()["data"]}
    now = datetime.now(UTC)
    rows = [_row(key, found[external_id], now) for key, external_id in accounts]
    with _own.database, _own.database.cursor() as cursor:
        execute_values(cursor, KEEP, rows)


def _row(key: int, metrics: dict[str, int], now: datetime) -> tuple[Any, ...]:
    posts = metrics["post_count"] if "post_count" in metrics else metrics["tweet_count"]
    return (key, now.date(), metrics["followers_count"], metrics["following_count"], posts, now)


def main() -> None:
    with ThreadPoolExecutor(THREADS, initializer=begin) as pool, psycopg2.connect(DATABASE) as listing:
        for line in sys.stdin:
            accounts_wanted, batch = map(int, line.split())
            began, spent = time.perf_counter(), time.process_time()
            with listing.cursor() as cursor:
                cursor.execute(
                    "SELECT account_key, external_id FROM dim_account WHERE platform = 'x' ORDER BY account_key LIMIT %s",
                    (accounts_wanted,),
                )
                accounts = cursor.fetchall()
            listing.commit()
            for _ in pool.map(read, [accounts[at : at + batch] for at in range(0, len(accounts), batch)]):
                pass  # what went wrong is raised here
            print(
                json.dumps({"seconds": time.perf_counter() - began, "cpu_s": time.process_time() - spent}), flush=True
            )


if __name__ == "__main__":
    main()
