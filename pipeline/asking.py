"""`rollcall enqueue`: have accounts read now, and follow them to the result."""

import sys
from array import array
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import chain
from typing import BinaryIO

import click
from msgspec import Struct
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from db import overview
from db.engine import Connection, Engine, reading
from db.overview import Candidate, Chosen
from db.pauses import Pause
from db.standing import Status
from pipeline import addresses, naming, platforms, trail
from pipeline.app import make_celery
from pipeline.command import Misuse, PlatformName, as_json_option, opened
from pipeline.enqueue import Enqueuer
from pipeline.estimate import Estimate, LeftOut, Wanted
from pipeline.follow import Awaited, Ended, follow
from pipeline.limits import duration
from pipeline.settings import Settings
from pipeline.terminal import JsonObject, moment, note, show_table
from pipeline.times import Past, Span

# Rows of jobs or failures that a terminal shows.
SHOWN = 40
# Accounts a look-up.
_PART = 5_000


class Asked(Struct, frozen=True):
    """An account that was asked for, and the job that reads it."""

    account: str
    job_id: str


@click.command()
@click.argument("names", nargs=-1, metavar="[ACCOUNT]...")
@click.option(
    "--file", "files", multiple=True, type=click.File("rb"), help="Accounts from a file; - reads standard input."
)
@click.option("--platform", type=PlatformName(), help="Every account of this platform.")
@click.option("--org", help="Every account of this organisation.")
@click.option("--core", is_flag=True, help="Every core account.")
@click.option("--stale", is_flag=True, help="Every account that `rollcall status` counts as stale.")
@click.option("--failed", is_flag=True, help="Every account whose last attempt failed.")
@click.option(
    "--since",
    type=Past(),
    metavar="WHEN",
    help="Every account without a reading since then: 6h or 2d ago, 2026-11-01.",
)
@click.option("--all", "everything", is_flag=True, help="Every account.")
@click.option("--dry-run", is_flag=True, help="Say how many calls it takes, how long and what it costs.")
@click.option("--wait", is_flag=True, help="Follow to the result.")
@click.option("--timeout", "timeout_s", type=Span(), help="Wait no longer than this: 90s, 10m, 6h.")
@as_json_option
def enqueue(
    names: tuple[str, ...],
    files: tuple[BinaryIO, ...],
    platform: str | None,
    org: str | None,
    core: bool,
    stale: bool,
    failed: bool,
    since: datetime | None,
    everything: bool,
    dry_run: bool,
    wait: bool,
    timeout_s: float | None,
    as_json: bool,
) -> None:
    """Read accounts now, ahead of the daily round.

    ACCOUNT is x/name, mastodon/name@host or a URL. A file has one a line (blank lines and those that begin with # are
    left out), or is an account list as `rollcall accounts import` takes it. When one of them is unknown, nothing is
    enqueued.

    Options that choose accounts narrow each other down; --stale and --failed together take both. Paused accounts are
    never among them.

    --json answers with one object: `left_out` (account, reason), `request_id` (what the workers' logs know this by) and
    `jobs` (account, job_id; with --wait, once they end, also result and reason: a result of null is one that --timeout
    didn't wait for).

    Exit codes: 0 enqueued, or read where it waits; 1 an account that was named can't be read, or one failed or
    wasn't read in time; 2 wrong use, an unknown account, faulty settings.
    """
    which = _chosen(platform, org, core, stale, failed, since)
    if sum((bool(names or files), which != Chosen(), everything)) != 1:
        raise click.UsageError("Name accounts, or choose them by --platform, --org, … or take --all.")
    if timeout_s is not None and not wait:
        raise click.UsageError("--timeout goes with --wait.")
    answer = answer_in(as_json)
    with opened() as (settings, engine):
        wanted = Wanted(settings, platforms.load())
        with reading(engine) as conn:
            asked = _candidates(conn, names, files, which, settings)
            answer.left_out(wanted.sort(asked), wanted)
        if dry_run:
            answer.estimates(wanted.estimates())
            return
        awaited: dict[str, Awaited] | None = {} if wait else None
        results = Counter[str | None]()
        answer.jobs(  # which follows nobody before all have been asked for: only then `awaited` is whole
            ask(settings, engine, wanted, requested_by="rollcall enqueue", awaited=awaited),
            None if awaited is None else _counted(follow(engine, awaited, timeout_s=timeout_s), results),
        )
    if wait:
        note(_summary(results, timeout_s))
    if set(results) - {"ok"} or (wanted.left_out and (names or files)):
        sys.exit(1)


def ask(
    settings: Settings,
    engine: Engine,
    wanted: Wanted,
    *,
    requested_by: str,
    awaited: dict[str, Awaited] | None = None,
) -> Iterator[Asked]:
    """Put the accounts on the user-requested lane and yield the job of each; shows on a terminal how far it is.

    Says what they have to wait for: the broker, or the end of a pause. `awaited` takes in what `follow` needs.
    """
    enqueuer = Enqueuer(settings, engine, make_celery(settings))
    broker_error: str | None = None
    paused: Mapping[str, Pause] = {}
    with _bar() as bar:
        shown = bar.add_task("enqueued", total=wanted.total)
        for part in enqueuer.request_all(wanted.keys, requested_by=requested_by):
            broker_error, paused = broker_error or part.broker_error, part.paused
            with reading(engine) as conn:
                names = overview.names(conn, part.jobs)
            for key, job_id in sorted(part.jobs.items()):
                asked = Asked(names.get(key, f"account {key}"), job_id)
                if awaited is not None:
                    platform = asked.account.partition("/")[0]
                    awaited.setdefault(job_id, Awaited(platform, array("q"))).account_keys.append(key)
                yield asked
            bar.advance(shown, len(part.jobs))
    asked_of = {platform for platform, _, _ in wanted.keys}
    _note_waits(broker_error, [paused[name] for name in sorted(asked_of & paused.keys())])


def _bar() -> Progress:
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console, disable=not console.is_terminal, transient=True)


def _note_waits(broker_error: str | None, paused: Sequence[Pause]) -> None:
    if broker_error:
        note(
            f"The broker can't be reached ({broker_error}; see `rollcall doctor`): what was asked for waits "
            "in the database and goes out when it is back."
        )
    for pause in paused:
        note(f"{pause.platform} pauses until {moment(pause.until)} ({pause.reason}): its accounts are read then.")


def _chosen(
    platform: str | None, org: str | None, core: bool, stale: bool, failed: bool, since: datetime | None
) -> Chosen:
    flags: dict[Status, bool] = {"stale": stale, "failing": failed}
    statuses = tuple(status for status, is_set in flags.items() if is_set)
    return Chosen(platform=platform, org=org, core=core or None, statuses=statuses or None, unread_since=since)


def _candidates(
    conn: Connection, names: Sequence[str], files: Sequence[BinaryIO], which: Chosen, settings: Settings
) -> Iterator[Candidate]:
    """Return the accounts that are meant. Raises Misuse when one of them, or the organisation, is unknown."""
    registered = platforms.load()
    if names or files:
        written = (naming.of_file(file, registered) for file in files)
        keys = naming.keys(conn, chain(naming.of_arguments(names, registered), *written))
        parts = (keys[start : start + _PART] for start in range(0, len(keys), _PART))
        return chain.from_iterable(overview.candidates(conn, part) for part in parts)
    if which.org is not None and which.org not in (known := overview.organisations(conn)):
        raise Misuse(f"No account is of the organisation {which.org!r}.{addresses.meant(which.org, known)}")
    return overview.chosen(conn, which, now=datetime.now(UTC), stale_after=settings.stale_after)


def _counted(ended: Iterable[Ended], results: Counter[str | None]) -> Iterator[Ended]:
    for one in ended:
        results[one.result] += 1
        yield one


def _summary(results: Counter[str | None], timeout_s: float | None) -> str:
    failed = results.total() - results["ok"] - results[None]
    late = f", {results[None]:,} not finished within {duration(timeout_s)}" if timeout_s and results[None] else ""
    return f"{results['ok']:,} read, {failed:,} failed{late}."


class _Json:
    """The answer as one object, whose lists are written as they come."""

    def __init__(self) -> None:
        self._object = JsonObject()

    def left_out(self, left_out: Iterable[LeftOut], wanted: Wanted) -> None:
        self._object.show_list("left_out", left_out)

    def estimates(self, found: Sequence[Estimate]) -> None:
        self._object.show_list("calls", found)
        self._object.end()

    def jobs(self, asked: Iterable[Asked], ended: Iterable[Ended] | None = None) -> None:
        self._object.show(trail.REQUEST_ID, trail.headers()[trail.REQUEST_ID])
        if ended is None:
            self._object.show_list("jobs", asked)
        else:
            deque(asked, maxlen=0)
            self._object.show_list("jobs", ended)
        self._object.end()


class _Text:
    """The answer as tables, and remarks on standard error."""

    def left_out(self, left_out: Iterable[LeftOut], wanted: Wanted) -> None:
        deque(left_out, maxlen=0)
        for reason, count in wanted.left_out.items():
            more = f" and {count - wanted.FEW:,} more" if count > wanted.FEW else ""
            note(f"Left out, {reason}: {', '.join(wanted.first_left_out[reason])}{more}.")

    def estimates(self, found: Sequence[Estimate]) -> None:
        show_table(
            ("platform", "call", "accounts", "calls", "takes at the limits", "costs"),
            ((e.platform, e.kind, e.accounts, e.calls, duration(e.takes_s), f"${e.costs_usd:.2f}") for e in found),
        )
        note("Nothing was enqueued.")

    def jobs(self, asked: Iterable[Asked], ended: Iterable[Ended] | None = None) -> None:
        rows = ((one.account, one.job_id) for one in asked)
        if not show_table(("account", "job"), rows, most=SHOWN):
            note("Nothing was enqueued.")
        if ended is not None:
            failures = ((one.account, one.result, one.reason) for one in ended if one.result != "ok")
            show_table(("account", "result", "reason"), failures, most=SHOWN)


def answer_in(as_json: bool) -> _Json | _Text:
    return _Json() if as_json else _Text()
