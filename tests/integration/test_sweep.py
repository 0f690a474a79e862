"""A job from the tick to the snapshot: a real planner, real workers, the simulator over real sockets."""

import json
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select, text

from db import metrics
from db.engine import Engine, reading
from db.models import (
    account_latest,
    dim_account,
    fact_followers_snapshot,
    fact_social_post,
    scrape_job,
    scrape_state,
)
from deploy.simulator.server import Simulator
from pipeline.accounts import import_list
from pipeline.metrics import JOBS
from tests.system import System, system

X_ACCOUNTS = 43
OTHERS = ["youtube,Agency{n}", "bluesky,agency{n}.bsky.social", "truthsocial,agency{n}"]


@pytest.fixture
def running(database_url: str, redis_url: str, broker_url: str, tmp_path: Path) -> Iterator[tuple[System, Simulator]]:
    with system(database_url, redis_url, tmp_path / "logs", BROKER_URL=broker_url) as both:
        yield both


def accounts(engine: Engine, *rows: str) -> None:
    report = import_list(engine, "\n".join(["platform,handle", *rows]).encode(), now=datetime.now(UTC))
    assert report.counts == {"imported": len(rows)}, report.rows


def simulator_state(simulator: Simulator) -> dict[str, Any]:
    with urllib.request.urlopen(f"{simulator.url}/_simulator/state") as answer:
        return dict(json.load(answer))


def unread(engine: Engine) -> int:
    with reading(engine) as conn:
        return conn.scalar(select(func.count()).where(scrape_state.c.last_success_at.is_(None))) or 0


def test_forty_three_accounts_of_x_cost_one_call(running: tuple[System, Simulator], engine: Engine) -> None:
    processes, simulator = running
    accounts(engine, *(f"x,agency_{n}" for n in range(X_ACCOUNTS)))
    processes.worker("x")
    processes.start("pipeline.beat")

    processes.wait(lambda: _with_numbers(engine) == X_ACCOUNTS, within_s=30, what="numbers for every account")

    with reading(engine) as conn:
        jobs = conn.execute(select(scrape_job.c.accounts).where(scrape_job.c.kind == "resolve")).scalars().all()
    assert [len(keys) for keys in jobs] == [X_ACCOUNTS]
    state = simulator_state(simulator)
    assert state["violations"].get("x", 0) == 0


def test_a_first_sweep_reads_every_account_its_posts_and_breaks_no_limit(
    running: tuple[System, Simulator], engine: Engine
) -> None:
    processes, simulator = running
    rows = [row.format(n=n) for row in OTHERS for n in range(4)]
    accounts(engine, *rows, "mastodon,agency@social.example", "mastodon,office@town.example", "x,agency")
    for platform in ("x", "youtube", "bluesky", "mastodon", "truthsocial"):
        processes.worker(platform)
    processes.start("pipeline.beat")
    processes.start("workers.recorder")

    processes.wait(
        lambda: _with_numbers(engine) == len(rows) + 3 and unread(engine) == 0, within_s=60, what="profiles and posts"
    )

    with reading(engine) as conn:
        snapshots = conn.execute(select(fact_followers_snapshot)).all()
        engaged = conn.scalar(select(func.count()).where(account_latest.c.engagement.is_not(None)))
        unknown = conn.scalar(select(func.count()).where(dim_account.c.external_id.is_(None)))
    assert len(snapshots) == len(rows) + 3
    assert {row.source for row in snapshots} == {"simulated"}
    assert (engaged, unknown) == (len(rows) + 3, 0)
    assert not any(simulator_state(simulator)["violations"].values())
    # Every job that ended has been recorded, by the messages sent after its commit.
    processes.wait(lambda: _recorded(engine) == _ended(engine) > 0, within_s=15, what="a metric per job")


def test_the_second_day_asks_by_id_in_batches(running: tuple[System, Simulator], engine: Engine) -> None:
    processes, _ = running
    accounts(engine, *(f"youtube,Agency{n}" for n in range(6)))
    processes.worker("youtube")
    processes.start("pipeline.beat")
    processes.wait(lambda: _with_numbers(engine) == 6, within_s=30, what="the first reading")

    with engine.begin() as conn:
        conn.execute(text("UPDATE scrape_state SET next_due_at = now() WHERE subject = 'profile'"))
    batch = select(func.cardinality(scrape_job.c.accounts)).where(
        scrape_job.c.kind == "profiles", scrape_job.c.state == "succeeded"
    )

    def second() -> list[int]:
        with reading(engine) as conn:
            return list(conn.scalars(batch))

    assert processes.wait(second, within_s=30, what="the second reading") == [6]


def _with_numbers(engine: Engine) -> int:
    with reading(engine) as conn:
        return conn.scalar(select(func.count(account_latest.c.followers))) or 0


def _recorded(engine: Engine) -> int:
    with reading(engine) as conn:
        return int(sum(one.value for one in metrics.totals(conn) if one.name == JOBS.name))


def _ended(engine: Engine) -> int:
    with reading(engine) as conn:
        return conn.scalar(select(func.count()).where(scrape_job.c.finished_at.is_not(None))) or 0


def test_posts_are_read_page_by_page_and_a_later_reading_stops_at_what_is_known(
    database_url: str, redis_url: str, broker_url: str, tmp_path: Path, engine: Engine
) -> None:
    with system(database_url, redis_url, tmp_path / "logs", BROKER_URL=broker_url, POSTS_PAGES="3") as (processes, _):
        accounts(engine, "bluesky,agency.bsky.social")
        processes.worker("bluesky")
        processes.start("pipeline.beat")

        processes.wait(lambda: _pages(engine) == [1, 2, 3], within_s=30, what="three pages of posts")
        with reading(engine) as conn:
            first = conn.scalar(select(func.count()).select_from(fact_social_post))
        assert first is not None and first > 100  # more than a page holds; reposts are left out

        with engine.begin() as conn:
            conn.execute(text("UPDATE scrape_state SET next_due_at = now() WHERE subject = 'posts'"))
        processes.wait(lambda: len(_pages(engine)) == 4, within_s=30, what="a page of the second reading")
        processes.wait(lambda: unread_posts(engine) == 0, within_s=10, what="nothing more on its way")
        assert _pages(engine) == [1, 1, 2, 3]


def unread_posts(engine: Engine) -> int:
    due = (scrape_state.c.subject == "posts") & (
        scrape_state.c.job_id.is_not(None) | (scrape_state.c.next_due_at <= func.now())
    )
    with reading(engine) as conn:
        return conn.scalar(select(func.count()).where(due)) or 0


def _pages(engine: Engine) -> list[int]:
    done = select(scrape_job.c.page).where(scrape_job.c.kind == "posts", scrape_job.c.state == "succeeded")
    with reading(engine) as conn:
        return sorted(conn.scalars(done))
