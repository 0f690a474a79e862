"""Readings in, changes out: everything that one job brought, in the caller's transaction."""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from msgspec import structs
from sqlalchemy import (
    ARRAY,
    BigInteger,
    Connection,
    Integer,
    SmallInteger,
    Text,
    and_,
    any_,
    bindparam,
    case,
    cast,
    exists,
    func,
    literal,
    literal_column,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import JSONB, JSONPATH, UUID, insert

from db import dataset, derived, gaps, identity, readings, tags
from db.dataset import MixedSources, clear_simulated, source_of
from db.models import NEVER_DUE, UTC, dim_account, fact_social_post, scrape_job, scrape_state
from db.recordset import as_json, recordset
from db.rows import DOUBT, Changes, Doubt, Job, JobState, Next, Post, Profile, Source

__all__ = ["MixedSources", "clear_simulated", "knows_post", "save", "source_of"]


def save(
    conn: Connection,
    job: Job,
    *,
    nexts: Sequence[Next],
    profiles: Sequence[Profile] = (),
    posts: Mapping[int, Sequence[Post]] | None = None,
    follow: Job | None = None,
    again: Job | None = None,
    source: Source,
    now: datetime,
    engagement_days: int = 30,
    doubt: Doubt = DOUBT,
    reads_posts: bool = True,
) -> Changes | None:
    """Finish a job: its state, how its accounts stand, and what was read of them. None when it isn't ours any more.

    `nexts` has exactly one entry per account of the job, less those of `again`: the same job with the accounts that
    are still to be asked for, which is queued once more instead of finished, at no cost of attempts. `profiles` and
    `posts` (by account_key) are those of the accounts that were read. `follow` reads the next page of posts: the
    accounts stay on their way in it. It is queued here and handed back in the changes, to be published after the
    commit. `doubt` says which readings are held, and how soon their accounts are read again. With `reads_posts`, the first
    good profile makes an account's posts due. Raises MixedSources.
    """
    kept = {account.account_key for account in again.accounts} if again else set()
    assert sorted(n.account_key for n in nexts) == sorted({a.account_key for a in job.accounts} - kept)
    derived.beside_others(conn)
    is_claimed = dataset.refuse_mixture(conn, source)
    taken: Mapping[int, str] = {}
    if _learns(job, profiles):
        identity.lock(conn, job.platform)
        taken = identity.taken(conn, profiles)
    nexts = [_taken_over(n, job, taken[n.account_key]) if n.account_key in taken else n for n in nexts]
    profiles = [profile for profile in profiles if profile.account_key not in taken]
    if not _finish(conn, job, nexts, again, now):
        return None
    if (profiles or posts) and not is_claimed:
        dataset.claim(conn, source)
    written_posts = readings.posts(conn, posts, source=source, now=now) if posts else 0
    written = readings.Written()
    touched = tags.of_job(job.platform, (account.account_key for account in job.accounts))
    if profiles:
        if identity.record(conn, profiles, now):
            touched |= {tags.NAMES}
        written = readings.snapshots(
            conn, profiles, source=source, now=now, engagement_days=engagement_days, doubt=doubt
        )
    if posts:
        readings.engagement(conn, posts.keys(), now=now, engagement_days=engagement_days)
    nexts = [_read_soon(n, now, doubt) if n.account_key in written.held else n for n in nexts]
    _move_on(conn, job, nexts, follow, now)
    if job.kind != "posts" and any(n.result != "ok" or job.failures.get(n.account_key) for n in nexts):
        gaps.record(conn, nexts, readings.day_of(now))
    if profiles and reads_posts:
        conn.execute(_DUE_POSTS, {"account_keys": [p.account_key for p in profiles], "now": now})
    if written.first:
        derived.count(conn, written.first, readings.day_of(now))
    return Changes(
        touched,
        snapshots=written.snapshots,
        posts=written_posts,
        follow=tuple(further for further in (follow, again) if further),
    )


_KNOWS_POST = select(
    exists().where(
        fact_social_post.c.account_key == bindparam("account_key"),
        fact_social_post.c.post_id == any_(bindparam("post_ids", type_=ARRAY(Text))),
    )
)


def knows_post(conn: Connection, account_key: int, post_ids: Sequence[str]) -> bool:
    """Say whether one of an account's posts has been kept before: those behind it have been, too."""
    return bool(conn.scalar(_KNOWS_POST, {"account_key": account_key, "post_ids": list(post_ids)}))


def _learns(job: Job, profiles: Sequence[Profile]) -> bool:
    """Say whether a profile brings an id or a name that its account didn't have."""
    known = {(account.account_key, account.external_id, account.handle) for account in job.accounts}
    return any((p.account_key, p.external_id, p.handle) not in known for p in profiles)


def _taken_over(decided: Next, job: Job, handle: str) -> Next:
    """Return how an account stands whose numbers are read under another listed account."""
    return structs.replace(
        decided,
        result="gone",
        reason=f"the same account as {job.platform}/{handle}, which is listed itself",
        failures=job.failures.get(decided.account_key, 0) + 1,
    )


def _read_soon(decided: Next, now: datetime, doubt: Doubt) -> Next:
    """Return how an account stands whose reading is held: as decided, but due sooner."""
    return structs.replace(decided, due_at=min(decided.due_at, now + timedelta(seconds=doubt.recheck_s)))


_said_before = func.coalesce(scrape_job.c.outcomes, literal_column("'[]'::jsonb"))
_CLOSE = (
    update(scrape_job)
    .where(
        scrape_job.c.job_id == bindparam("of_job"),
        scrape_job.c.state == "running",
        scrape_job.c.attempt == bindparam("of_attempt"),
    )
    .values(
        reason=func.coalesce(bindparam("new_reason", type_=Text), scrape_job.c.reason),
        outcomes=_said_before.op("||")(cast(bindparam("new_outcomes", type_=Text), JSONB)),
    )
)
_new_state = bindparam("new_state", type_=Text)
# A job that was asked for in parts is judged by all of them.
_OTHER_RESULT = {"succeeded": '$[*] ? (@.result != "ok")', "failed": '$[*] ? (@.result == "ok")'}
_other_result = func.jsonb_path_exists(scrape_job.c.outcomes, cast(bindparam("other_result", type_=Text), JSONPATH))
_FINISH = _CLOSE.values(state=case((_other_result, "partly_failed"), else_=_new_state), finished_at=bindparam("now"))
_AGAIN = _CLOSE.values(
    state="queued",
    attempt=scrape_job.c.attempt - 1,
    size=bindparam("new_size", type_=SmallInteger),
    lease_until=bindparam("now", type_=UTC) + (scrape_job.c.lease_until - scrape_job.c.started_at),
)


def _finish(conn: Connection, job: Job, nexts: Sequence[Next], again: Job | None, now: datetime) -> bool:
    """Close or requeue the job's row; False when this attempt isn't the newest any more, or isn't running."""
    state, reason = _verdict(nexts)
    outcomes = as_json({"account_key": n.account_key, "result": n.result, "reason": n.reason} for n in nexts)
    values = {"of_job": job.job_id, "of_attempt": job.attempt, "now": now}
    said = {"new_reason": reason if nexts else None, "new_outcomes": outcomes}
    if again:
        closed = conn.execute(_AGAIN, {**values, **said, "new_size": again.size})
    else:
        other_result = _OTHER_RESULT.get(state)
        closed = conn.execute(_FINISH, {**values, **said, "new_state": state, "other_result": other_result})
    return closed.rowcount == 1


def _verdict(nexts: Sequence[Next]) -> tuple[JobState, str | None]:
    """Return a job's last state, and why most of the accounts that weren't read were not."""
    reasons = Counter(n.reason for n in nexts if n.result != "ok")
    if nexts and not reasons:
        return "succeeded", None
    reason = reasons.most_common(1)[0][0] if reasons else "its accounts are not listed any more"
    return ("failed" if reasons.total() == len(nexts) else "partly_failed"), reason


_FOLLOW = insert(scrape_job).from_select(
    [
        "job_id",
        "platform",
        "kind",
        "accounts",
        "requested_by",
        "lane",
        "state",
        "cursor",
        "page",
        "created_at",
        "lease_until",
    ],
    select(
        bindparam("next_job", type_=UUID(as_uuid=False)),
        scrape_job.c.platform,
        scrape_job.c.kind,
        scrape_job.c.accounts,
        scrape_job.c.requested_by,
        bindparam("next_lane", type_=Text),
        literal("queued", Text),
        bindparam("next_cursor", type_=Text),
        bindparam("next_page", type_=SmallInteger),
        bindparam("now", type_=UTC),
        # As long a lease as this page had.
        bindparam("now", type_=UTC) + (scrape_job.c.lease_until - scrape_job.c.started_at),
    ).where(scrape_job.c.job_id == bindparam("of_job")),
)

# Locked in the order in which claims.claim_requested locks.
_mine = (
    select(scrape_state.c.account_key, scrape_state.c.subject)
    .where(scrape_state.c.job_id == bindparam("of_job"))
    .order_by(scrape_state.c.account_key)
    .with_for_update()
    .cte("mine")
)
_next = recordset("nexts", account_key=BigInteger, result=Text, reason=Text, failures=Integer, due_at=UTC)
_was_read = _next.c.result == "ok"
_MOVE_ON = (
    update(scrape_state)
    .where(
        scrape_state.c.account_key == _mine.c.account_key,
        scrape_state.c.subject == _mine.c.subject,
        dim_account.c.account_key == _mine.c.account_key,
        _next.c.account_key == _mine.c.account_key,
    )
    .values(
        # Once read, an account is known by its id.
        kind=case((and_(_was_read, scrape_state.c.kind == "resolve"), "profiles"), else_=scrape_state.c.kind),
        job_id=bindparam("next_job", type_=UUID(as_uuid=False)),
        result=_next.c.result,
        reason=_next.c.reason,
        explained=False,
        failures=_next.c.failures,
        next_due_at=case((dim_account.c.is_active, _next.c.due_at), else_=NEVER_DUE),
        last_attempt_at=bindparam("now"),
        last_success_at=case((_was_read, bindparam("now", type_=UTC)), else_=scrape_state.c.last_success_at),
    )
)


def _move_on(conn: Connection, job: Job, nexts: Sequence[Next], follow: Job | None, now: datetime) -> None:
    """Say of each account how it stands and when it is due, and put it into the job that follows, if any."""
    values = {"of_job": job.job_id, "now": now, "next_job": follow.job_id if follow else None}
    if follow:
        conn.execute(
            _FOLLOW, {**values, "next_lane": follow.lane, "next_cursor": follow.cursor, "next_page": follow.page}
        )
    conn.execute(_MOVE_ON, {**values, "nexts": as_json(nexts)})


_posts_state = scrape_state.alias("posts_state")
# The first good profile makes an account's posts due.
_DUE_POSTS = (
    insert(scrape_state)
    .from_select(
        ["account_key", "platform", "host", "is_core", "subject", "kind", "next_due_at"],
        select(
            dim_account.c.account_key,
            dim_account.c.platform,
            dim_account.c.host,
            dim_account.c.is_core_account,
            literal("posts", Text),
            literal("posts", Text),
            case((dim_account.c.is_active, bindparam("now", type_=UTC)), else_=NEVER_DUE),
        ).where(
            dim_account.c.account_key == any_(bindparam("account_keys", type_=ARRAY(BigInteger))),
            ~exists().where(
                _posts_state.c.account_key == dim_account.c.account_key, _posts_state.c.subject == "posts"
            ),
        ),
    )
    .on_conflict_do_nothing()
)
