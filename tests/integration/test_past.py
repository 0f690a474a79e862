"""The simulated weeks before the first run: as if Rollcall had been reading all the while."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import groupby, pairwise

import pytest
from sqlalchemy import func, select, text

from db import claims, dataset, writes
from db.engine import Engine, reading, transaction
from db.models import dim_account, fact_followers_snapshot, fact_social_post
from deploy import past, run
from deploy.simulator.server import Simulator
from pipeline import accounts, platforms
from pipeline.platforms import first_kind
from pipeline.records import Job
from pipeline.settings import Settings, load_settings
from tests.history import all_is_derived, keep
from tests.serving import add_account, days_ago
from workers.clients import make_clients
from workers.scrape import read

LIST = b"""platform,handle
x,agency
youtube,agency
facebook,agency
mastodon,agency@social.example
flickr,agency
instagram,agency
x,agency_missing
"""
FACT = fact_followers_snapshot.c


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    with Simulator() as running:
        yield running


@pytest.fixture
def settings(database_url: str, redis_url: str, simulator: Simulator) -> Settings:
    return load_settings({"DATABASE_URL": database_url, "REDIS_URL": redis_url, "SIMULATOR_URL": simulator.url})


@pytest.fixture
def now() -> datetime:
    return datetime.now(UTC)


@pytest.fixture
def written(engine: Engine, settings: Settings, now: datetime) -> past.Written:
    report = accounts.import_list(engine, LIST, now=now)
    assert report.counts["imported"] == 7
    found = past.write(engine, settings, now=now)
    assert found is not None
    return found


def test_every_account_that_can_be_read_has_each_of_sixty_days(engine: Engine, written: past.Written) -> None:
    assert written == past.Written(accounts=6, snapshots=6 * 60)
    with reading(engine) as conn:
        days = conn.execute(
            select(func.count(), func.min(FACT.snapshot_date), func.max(FACT.snapshot_date), func.min(FACT.source))
            .group_by(FACT.account_key)
            .distinct()
        ).all()
        assert days == [(60, days_ago(60), days_ago(1), "simulated")]
        assert conn.scalar(select(func.count()).where(FACT.precision == "held")) == 0
        assert dataset.source_of(conn) == "simulated"


def test_what_a_platform_rounds_or_leaves_out_is_so_in_the_past_too(engine: Engine, written: past.Written) -> None:
    with reading(engine) as conn:
        found = {
            platform: (precision, followers, engagement)
            for platform, precision, followers, engagement in conn.execute(
                select(dim_account.c.platform, FACT.precision, FACT.followers, FACT.engagement)
                .join(dim_account, dim_account.c.account_key == FACT.account_key)
                .where(FACT.snapshot_date == days_ago(30))
            )
        }
    assert found["x"][0] == "exact" and found["x"][2] > 0
    assert found["youtube"][0] == "rounded"
    assert found["flickr"][1] is None and found["flickr"][2] is not None


def test_days_are_added_up_and_all_that_follows_from_them_is_right(engine: Engine, written: past.Written) -> None:
    with reading(engine) as conn:
        added_up = conn.scalar(
            text("SELECT count(*) FROM day_total WHERE platform = '' AND org_name = '' AND accounts IS NOT NULL")
        )
    assert added_up == 60
    assert all_is_derived(engine)


def test_the_first_reading_continues_the_curve(engine: Engine, settings: Settings, written: past.Written) -> None:
    with reading(engine) as conn:
        listed = claims.active(conn, most=10)
        rows = conn.execute(select(FACT.account_key, FACT.followers).order_by(FACT.account_key, FACT.snapshot_date))
        curves = {key: [followers for _, followers in of] for key, of in groupby(rows, key=lambda row: row[0])}
    for account in listed:
        platform = platforms.load()[account.platform]
        kind = first_kind(platform, account.external_id)
        job = Job(job_id="", platform=account.platform, kind=kind, lane="core", accounts=(account,))
        for profile in read(platform, job, make_clients(settings, platform)["1"](lambda _: None)).profiles:
            curve = curves[account.account_key]
            if curve[-1] is None:
                assert profile.followers is None
            else:
                largest_step = max(abs(after - before) for before, after in pairwise(curve))
                assert abs(profile.followers - curve[-1]) <= 2 * largest_step + 2


def test_clearing_the_demo_removes_it_all(engine: Engine, written: past.Written) -> None:
    with transaction(engine) as conn:
        writes.clear_simulated(conn, resolving=[])
        assert conn.scalar(select(func.count()).select_from(fact_followers_snapshot)) == 0
        assert conn.scalar(select(func.count()).select_from(fact_social_post)) == 0
        assert dataset.source_of(conn) is None


def test_numbers_that_are_there_already_are_left_alone(engine: Engine, settings: Settings, now: datetime) -> None:
    with transaction(engine) as conn:
        keep(conn, add_account(conn, "x/agency"), days_ago(3), followers=5)

    assert past.write(engine, settings, now=now) is None

    with reading(engine) as conn:
        assert conn.scalar(select(func.count()).select_from(fact_followers_snapshot)) == 1


def test_a_long_list_gets_no_past_and_its_owner_is_told(
    engine: Engine,
    settings: Settings,
    now: datetime,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(past, "MOST_ACCOUNTS", 1)
    with transaction(engine) as conn:
        for handle in ("one", "two"):
            add_account(conn, f"x/{handle}")

    with pytest.raises(past.TooManyAccounts):
        past.write(engine, settings, now=now)
    run._simulate_past(engine, settings)

    assert "more than 1 accounts gets no simulated past" in capsys.readouterr().out


def test_engagement_of_a_past_day_is_that_of_the_posts_there_were(engine: Engine, written: past.Written) -> None:
    post = fact_social_post.c
    with reading(engine) as conn:
        key = conn.scalar(select(dim_account.c.account_key).where(dim_account.c.platform == "facebook"))
        yesterday = datetime.now(UTC) - timedelta(days=1)
        gathered = select(
            func.sum(sum(func.coalesce(of, 0) for of in (post.likes, post.comments, post.shares)))
        ).where(post.account_key == key, post.published_at > yesterday - timedelta(days=30))
        by_day = select(FACT.engagement).where(FACT.account_key == key).order_by(FACT.snapshot_date)
        assert conn.scalars(by_day).all()[-1] == conn.scalar(gathered) > 0
        assert len(set(conn.scalars(by_day))) > 5
