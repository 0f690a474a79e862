"""`rollcall cache …`: what the API's caches do, and ending or filling them by hand."""

import time

import click
from redis import Redis

from api.cache import stats
from api.cache.popular import most_asked_now
from api.cache.stats import Counts
from api.cache.warm import MOST, QUEUE_KEY
from db.tags import EVERYTHING
from pipeline.command import Fault, as_json_option, purge
from pipeline.settings import Settings, load_settings
from pipeline.terminal import moment, note, show_json, show_table

_LOOK_S = 0.1
# A process takes some every second or two; longer than this none is there.
_PATIENCE_S = 15.0


@click.group("cache")
def cache_group() -> None:
    """The caches of the API."""


@cache_group.command("stats")
@as_json_option
def stats_command(as_json: bool) -> None:
    """Show where answers came from, by endpoint, and what would make more of them hits.

    The numbers are those of all API processes since each was started, a few seconds old at most.
    """
    with _redis(load_settings()) as redis:
        snapshots = stats.kept(redis)
    endpoints = stats.by_endpoint(snapshots)
    total = stats.whole(endpoints)
    advice = stats.recommendations(endpoints)
    purges = max((snapshot.purges for snapshot in snapshots), default=None)
    if as_json:
        show_json(
            {
                "since": min((snapshot.since for snapshot in snapshots), default=None),
                "processes": len(snapshots),
                "purges": purges,
                "hit_rate": total.hit_rate,
                "total": total,
                "endpoints": [
                    {"endpoint": name, "hit_rate": counts.hit_rate, "counts": counts}
                    for name, counts in endpoints.items()
                ],
                "recommendations": advice,
            }
        )
        return
    if not snapshots:
        note("No process of the API has counted anything within the last hour.")
        return
    show_table(
        ("endpoint", "hits", "l1", "l2", "stale", "misses", "304", "404", "MB", "expired", "purged", "evicted"),
        [_cells(name, counts) for name, counts in endpoints.items()] + [_cells("all", total)],
    )
    for one in advice:
        note(one)
    note(
        f"{len(snapshots)} processes, counting since {moment(min(snapshot.since for snapshot in snapshots))};"
        f" {purges:,} purges."
    )


@cache_group.command("clear")
@click.argument("tags", nargs=-1, metavar="[TAG…]")
def clear_command(tags: tuple[str, ...]) -> None:
    """End every cached answer, or those that bear one of these tags (such as account:42, summary, platform:x).

    The tags of an answer stand in its header Surrogate-Key.
    """
    settings = load_settings()
    with _redis(settings) as redis:
        redis.ping()  # a purge that can't be sent would only be logged
    purge(settings, frozenset(tags or {EVERYTHING}))
    note(f"Ended: {', '.join(tags)}." if tags else "Ended every cached answer.")


@cache_group.command("warm")
@click.option("--top", default=MOST, type=click.IntRange(1, 1000), show_default=True, help="So many requests.")
def warm_command(top: int) -> None:
    """Have the API ask itself for what was asked for most today and yesterday."""
    with _redis(load_settings()) as redis:
        packed = most_asked_now(redis, top)
        if not packed:
            note("Nothing was asked for yet.")
            return
        redis.delete(QUEUE_KEY)
        redis.rpush(QUEUE_KEY, *packed)
        gives_up_at = time.monotonic() + _PATIENCE_S
        left = len(packed)
        while now_left := int(redis.llen(QUEUE_KEY)):
            if now_left < left:
                left, gives_up_at = now_left, time.monotonic() + _PATIENCE_S
            if time.monotonic() > gives_up_at:
                redis.delete(QUEUE_KEY)
                raise Fault("No process of the API takes them up: does it run, with this REDIS_URL?")
            time.sleep(_LOOK_S)
    note(f"{len(packed)} requests were taken up.")


def _redis(settings: Settings) -> Redis:
    return Redis.from_url(settings.redis_url.get_secret_value())


def _cells(name: str, counts: Counts) -> tuple[object, ...]:
    rate = counts.hit_rate
    return (
        name,
        None if rate is None else f"{rate:.1%}",
        *(f"{number:,}" for number in (counts.l1, counts.l2, counts.stale, counts.misses)),
        *(f"{number:,}" for number in (counts.not_modified, counts.absent)),
        f"{counts.bytes / 1e6:,.1f}",
        *(f"{number:,}" for number in (counts.expired, counts.purged, counts.evicted)),
    )
