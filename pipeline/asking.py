"""`rollcall enqueue`: have accounts read now, and follow them to the result."""

import sys
from collections.abc import Sequence

import click

from db import accounts, overview
from db.engine import Connection, Engine, reading
from db.overview import AccountResult, Candidate
from pipeline import addresses, platforms
from pipeline.app import make_celery
from pipeline.command import Misuse, PlatformName, as_json_option, opened
from pipeline.enqueue import Enqueuer
from pipeline.estimate import Estimate, LeftOut, estimates, sorted_out
from pipeline.follow import follow
from pipeline.settings import Settings
from pipeline.terminal import duration, note, show_json, show_table

_NAMED = 5


@click.command()
@click.argument("names", nargs=-1, metavar="[ACCOUNT]...")
@click.option("--platform", type=PlatformName(), help="Every account of this platform.")
@click.option("--failed", is_flag=True, help="Every account whose last attempt failed.")
@click.option("--all", "everything", is_flag=True, help="Every account.")
@click.option("--dry-run", is_flag=True, help="Say how many calls it takes, how long and what it costs.")
@click.option("--wait", is_flag=True, help="Follow to the result; exits 1 when an account failed.")
@as_json_option
def enqueue(
    names: tuple[str, ...],
    platform: str | None,
    failed: bool,
    everything: bool,
    dry_run: bool,
    wait: bool,
    as_json: bool,
) -> None:
    """Read accounts now, ahead of the daily round.

    ACCOUNT is x/name, mastodon/name@host or a URL. --platform and --failed can be combined.
    """
    filtered = bool(platform or failed or everything)
    if bool(names) == filtered:
        raise click.UsageError("Name accounts, or use --platform, --failed or --all.")
    with opened() as (settings, engine):
        with reading(engine) as conn:
            asked = (
                overview.active_candidates(conn, platform=platform, failed=failed)
                if filtered
                else overview.candidates(conn, _keys_of(conn, names))
            )
        wanted, left_out = sorted_out(asked, settings, platforms.load())
        if dry_run:
            _show_estimates(estimates(wanted, settings, platforms.load()), left_out, as_json)
            return
        jobs = _request(settings, engine, wanted)
        names_of = {c.account_key: c.name for c in wanted if c.account_key in jobs}
        if not as_json:
            show_table(("account", "job"), ((names_of[key], job_id) for key, job_id in jobs.items()))
            _note_left_out(left_out)
            if not jobs:
                note("Nothing was enqueued.")
        results = follow(engine, jobs) if wait else []
    failures = [result for result in results if result.result != "ok"]
    if as_json:
        outcomes = {result.account_key: result for result in results}
        show_json(
            {
                "jobs": [_asked(name, jobs[key], outcomes.get(key)) for key, name in names_of.items()],
                "left_out": left_out,
            }
        )
    elif wait:
        show_table(("account", "result", "reason"), ((names_of[r.account_key], r.result, r.reason) for r in failures))
        note(f"{len(results) - len(failures)} read, {len(failures)} failed.")
    if failures or (left_out and names):
        sys.exit(1)


def _keys_of(conn: Connection, names: Sequence[str]) -> list[int]:
    """Return the accounts that people named. Raises Misuse for all that are unknown, with the nearest known ones."""
    sought, faults = [], []
    for name in names:
        try:
            sought.append(addresses.of_text(name, platforms.load()))
        except addresses.Unclear as exc:
            faults.append(f"{name}: {exc}.{_nearest(conn, name)}")
    found = accounts.find_each(conn, sought)
    faults += [
        f"{named.name} is not in the account list.{_nearest(conn, named.name)}"
        for named, key in zip(sought, found, strict=True)
        if key is None
    ]
    if faults:
        raise Misuse("\n".join(faults))
    return [key for key in found if key is not None]


def _nearest(conn: Connection, name: str) -> str:
    near = addresses.nearest(name, accounts.names(conn))
    return f" Did you mean {' or '.join(near)}?" if near else ""


def _request(settings: Settings, engine: Engine, wanted: Sequence[Candidate]) -> dict[int, str]:
    """Put the accounts on the user-requested lane; return their jobs. Says so when they must wait for the broker."""
    keys_wanted = [candidate.account_key for candidate in wanted]
    enqueuer = Enqueuer(settings, engine, make_celery(settings))
    requested = enqueuer.request(keys_wanted, requested_by="rollcall enqueue")
    if requested.broker_error:
        note(
            f"The broker can't be reached ({requested.broker_error}; see `rollcall doctor`): what was asked for waits "
            f"in the database and goes out within {duration(settings.job_lease_s)} of its return."
        )
    return dict(requested.jobs)


def _asked(account: str, job_id: str, result: AccountResult | None) -> dict[str, str | None]:
    asked: dict[str, str | None] = {"account": account, "job_id": job_id}
    return asked | {"result": result.result, "reason": result.reason} if result else asked


def _show_estimates(found: Sequence[Estimate], left_out: Sequence[LeftOut], as_json: bool) -> None:
    if as_json:
        show_json({"calls": found, "left_out": left_out})
        return
    show_table(
        ("platform", "call", "accounts", "calls", "takes at the limits", "costs"),
        ((e.platform, e.kind, e.accounts, e.calls, duration(e.takes_s), f"${e.costs_usd:.2f}") for e in found),
    )
    _note_left_out(left_out)
    note("Nothing was enqueued.")


def _note_left_out(left_out: Sequence[LeftOut]) -> None:
    """Say once per reason which accounts can't be read."""
    by_reason: dict[str, list[str]] = {}
    for item in left_out:
        by_reason.setdefault(item.reason, []).append(item.account)
    for reason, left in by_reason.items():
        more = f" and {len(left) - _NAMED} more" if len(left) > _NAMED else ""
        note(f"Left out, {reason}: {', '.join(left[:_NAMED])}{more}.")
