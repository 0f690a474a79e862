"""Look at everything that Rollcall needs to run, and say how to mend what is wrong. Nothing is changed."""

from collections.abc import Iterator, Mapping

from db import overview
from db.engine import Engine, reading
from pipeline.doctor import database, machine, mails, processes, sources
from pipeline.doctor.finding import Finding, said_by_server
from pipeline.doctor.servers import broker, cdns, redis, visibility
from pipeline.platforms import Platform
from pipeline.settings import Settings

__all__ = ["Finding", "cdns", "examine", "said_by_server"]


def examine(settings: Settings, engine: Engine, platforms: Mapping[str, Platform]) -> Iterator[Finding]:
    """Yield findings in the order in which they are worth mending."""
    yield _settings(settings)
    yield from machine.secrets(settings)
    in_database = list(database.examine(settings, engine))
    yield from in_database
    yield from redis(settings)
    reached = broker(settings)
    if settings.broker_url or reached.level != "ok":
        yield reached
    yield from visibility(settings)
    yield from cdns(settings)
    yield from mails.server(settings)
    yield from sources.base_urls(settings, platforms)
    counts: Mapping[str, int] = {}
    if all(finding.level != "fail" for finding in in_database if finding.what in ("database", "schema", "role")):
        with reading(engine) as conn:
            counts = overview.account_counts(conn)
            yield from sources.examine(conn, counts, settings, platforms)
            yield from processes.in_database(conn)
            yield from mails.recipients(conn, settings)
    if reached.level == "ok":
        yield from processes.workers(settings, counts, platforms)
    yield from processes.api(settings, engine)
    yield processes.flower(settings)
    yield from machine.static_url(settings)
    yield from machine.disks(settings)
    yield machine.open_files()


def _settings(settings: Settings) -> Finding:
    """Look whether a lease outlasts what it covers: a job's wait in its queue, then its call."""
    for name, least_s in (("HTTP_DEADLINE_S", settings.http_deadline_s), ("PLAN_AHEAD_S", settings.plan_ahead_s)):
        if settings.job_lease_s <= least_s:
            said = f"jobs may be given out twice: JOB_LEASE_S={settings.job_lease_s:g} is not longer than {name}={least_s:g}"
            return Finding("warn", "settings", said, f"raise JOB_LEASE_S above {name}, or lower that")
    return Finding("ok", "settings", "are complete and well-formed")
