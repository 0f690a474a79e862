"""The schema: a star of accounts, snapshots and posts, and the hot tables that the pipeline works on.

Tables for statements and migrations (Core, no ORM). Counts are 64-bit, times are UTC, days are UTC days.
"""

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Date,
    Float,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    and_,
    func,
    literal_column,
    text,
)
from sqlalchemy.dialects.postgresql import INT8MULTIRANGE, JSONB, TIMESTAMP, UUID

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)

UTC = TIMESTAMP(timezone=True)
# scrape_state.next_due_at of an account that is paused.
NEVER_DUE = literal_column("'infinity'::timestamptz", UTC)
# Every reading changes its rows twice, and indexed columns of them: room for that on the page, and a vacuum while
# little is dead, since a claim passes over what is dead.
_HOT = {"fillfactor": "80", "autovacuum_vacuum_scale_factor": "0.02", "autovacuum_analyze_scale_factor": "0.05"}
_SOURCES = "source IN ('live', 'simulated', 'imported')"
_PRECISIONS = "precision IN ('exact', 'rounded', 'hidden', 'held')"

# What the roles of the API and of the workers may do with a table, besides reading it; `db.roles` makes grants of it. A
# table that says nothing holds what people say by the API: the API writes it, and workers don't even read it.
_ANY = "INSERT, UPDATE, DELETE"


def _written(*, api: str = "", workers: str = "") -> dict[str, str]:
    return {"api": api, "workers": workers}


_BY_WORKERS = _written(workers=_ANY)
_BY_OWNER = _written()

dim_account = Table(
    "dim_account",
    metadata,
    Column("account_key", BigInteger, Identity(always=True), primary_key=True),
    Column("platform", Text, nullable=False),
    Column("host", Text, nullable=False, server_default="", comment="only where a platform is many servers"),
    Column("handle", Text, nullable=False, comment="the name as the platform writes it today"),
    Column("external_id", Text, comment="the platform's stable id, kept from first sight"),
    Column("url", Text, nullable=False, comment="the address as imported"),
    Column("org_name", Text),
    Column("owner_team", Text),
    Column("account_type", Text),
    Column("is_core_account", Boolean, nullable=False, server_default=text("false")),
    Column("is_active", Boolean, nullable=False, server_default=text("true")),
    Column("display_name", Text),
    Column("bio", Text),
    Column("avatar_url", Text),
    Column("verified", Boolean),
    Column("added_at", UTC, nullable=False, server_default=func.now()),
    Column(
        "seat",
        Integer,
        nullable=False,
        server_default="0",
        comment="its number among those of its platform and host: neighbours are read together",
    ),
    Column("read_interval_s", Integer, comment="seconds between two readings; null: as its platform's are"),
    CheckConstraint("read_interval_s > 0", name="read_interval"),
    info=_written(api="INSERT, UPDATE", workers="UPDATE"),
)
Index(
    "uq_dim_account_handle", dim_account.c.platform, dim_account.c.host, func.lower(dim_account.c.handle), unique=True
)
Index(
    "uq_dim_account_external_id",
    dim_account.c.platform,
    dim_account.c.host,
    dim_account.c.external_id,
    unique=True,
    postgresql_where=dim_account.c.external_id.is_not(None),
)

account_handle = Table(
    "account_handle",
    metadata,
    Column("account_key", ForeignKey("dim_account.account_key", ondelete="CASCADE"), primary_key=True),
    Column("handle", Text, primary_key=True),
    Column("first_seen_at", UTC, nullable=False, server_default=func.now()),
    Column("last_seen_at", UTC, nullable=False, server_default=func.now()),
    comment="every name an account has had, the present one included",
    info=_written(api="INSERT", workers="INSERT, UPDATE"),
)
# An address with an old handle still finds its account.
Index("ix_account_handle_lower", func.lower(account_handle.c.handle))

scrape_state = Table(
    "scrape_state",
    metadata,
    Column("account_key", ForeignKey("dim_account.account_key", ondelete="CASCADE"), primary_key=True),
    Column("subject", Text, primary_key=True, comment="profile or posts"),
    Column("platform", Text, nullable=False),
    Column("host", Text, nullable=False, server_default=""),
    Column("kind", Text, nullable=False, comment="the call that reads it next: resolve, profiles or posts"),
    Column("is_core", Boolean, nullable=False, server_default=text("false")),
    Column("next_due_at", UTC, nullable=False, comment="infinity while the account is paused"),
    Column("job_id", UUID(as_uuid=False), comment="the job it is on its way in; its lease is the job's"),
    Column("failures", Integer, nullable=False, server_default="0", comment="in a row"),
    Column("result", Text, comment="of the last attempt: ok, gone, failed or blocked; null before the first"),
    Column("reason", Text),
    Column(
        "explained",
        Boolean,
        nullable=False,
        server_default=text("false"),
        comment="result and reason say why the platform can't be read at all, not how an attempt ended",
    ),
    Column("last_attempt_at", UTC),
    Column("last_success_at", UTC),
    CheckConstraint("subject IN ('profile', 'posts')", name="subject"),
    CheckConstraint("result IN ('ok', 'gone', 'failed', 'blocked')", name="result"),
    postgresql_with=_HOT,
    info=_written(api="INSERT, UPDATE", workers="INSERT, UPDATE"),
)
# claims.claim_due: of one platform, kind of call and lane, the core accounts first, then the longest due.
_LANE = (scrape_state.c.platform, scrape_state.c.kind, (scrape_state.c.failures > 0))
_URGENCY = (scrape_state.c.is_core.desc(), scrape_state.c.next_due_at)
Index("ix_scrape_state_claim", *_LANE, *_URGENCY, postgresql_where=scrape_state.c.job_id.is_(None))
# The same within one host of a platform that is many servers: a call asks one of them.
Index(
    "ix_scrape_state_claim_of_host",
    *_LANE,
    scrape_state.c.host,
    *_URGENCY,
    postgresql_where=and_(scrape_state.c.job_id.is_(None), scrape_state.c.host != ""),
)
# claims: the accounts of a job.
Index("ix_scrape_state_job_id", scrape_state.c.job_id, postgresql_where=scrape_state.c.job_id.is_not(None))
# explained.clear: usually none.
Index("ix_scrape_state_explained", scrape_state.c.platform, postgresql_where=text("explained"))

account_gap = Table(
    "account_gap",
    metadata,
    Column("account_key", ForeignKey("dim_account.account_key", ondelete="CASCADE"), primary_key=True),
    Column("from_date", Date, primary_key=True),
    Column("to_date", Date, comment="null: until something else is said"),
    Column("result", Text, nullable=False),
    Column("reason", Text),
    CheckConstraint("result IN ('gone', 'failed', 'blocked', 'paused')", name="result"),
    CheckConstraint("from_date <= to_date", name="range"),
    comment="why an account has no reading on these days; days that have one may lie among them",
    info=_written(api="INSERT, UPDATE", workers="INSERT, UPDATE"),
)
# coverage: the ranges that touch the last days; gaps.forget: those that ended before a day.
Index("ix_account_gap_to_date", account_gap.c.to_date)

scrape_job = Table(
    "scrape_job",
    metadata,
    Column("job_id", UUID(as_uuid=False), primary_key=True),
    Column("platform", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("lane", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("accounts", ARRAY(BigInteger), nullable=False),
    Column("cursor", Text, comment="where a further page of posts begins"),
    Column("page", SmallInteger, nullable=False, server_default="1"),
    Column("size", SmallInteger, comment="most accounts to ask for at once, where the whole batch was refused"),
    Column("requested_by", Text),
    Column("attempt", SmallInteger, nullable=False, server_default="0", comment="deliveries that began"),
    Column("lease_until", UTC, nullable=False),
    Column("created_at", UTC, nullable=False),
    Column("started_at", UTC),
    Column("finished_at", UTC),
    Column("reason", Text),
    Column("outcomes", JSONB, comment="[{account_key, result, reason}] once it has finished"),
    CheckConstraint("lane IN ('user_requested', 'core', 'retry')", name="lane"),
    CheckConstraint("state IN ('queued', 'running', 'succeeded', 'partly_failed', 'failed')", name="state"),
    postgresql_with=_HOT,
    info=_written(api="INSERT, UPDATE", workers=_ANY),
)
# plan: how much is queued per platform and kind; claims.expired: leases that ran out.
Index(
    "ix_scrape_job_open",
    scrape_job.c.platform,
    scrape_job.c.kind,
    scrape_job.c.lease_until,
    postgresql_where=scrape_job.c.state.in_(["queued", "running"]),
)
# claims.prune: jobs past their retention; the newest jobs for people.
Index("ix_scrape_job_created_at", scrape_job.c.created_at)
# jobs.part: the newest of a platform; and those that the newest jobs of all may have none of. What most jobs are needs
# no index of its own: among the newest of all there are enough.
Index("ix_scrape_job_platform_created_at", scrape_job.c.platform, scrape_job.c.created_at)
for _column, _usual in (
    (scrape_job.c.state, "succeeded"),
    (scrape_job.c.lane, "core"),
    (scrape_job.c.kind, "profiles"),
):
    Index(
        f"ix_scrape_job_{_column.name}_created_at",
        _column,
        scrape_job.c.created_at,
        postgresql_where=_column != _usual,
    )

platform_pause = Table(
    "platform_pause",
    metadata,
    Column("platform", Text, primary_key=True),
    Column("credential", Text, primary_key=True, comment="the label of the set that is paused, no secret"),
    Column("until", UTC, nullable=False),
    Column("reason", Text, nullable=False),
    Column("result", Text, nullable=False, comment="limited, quota or blocked"),
    CheckConstraint("result IN ('limited', 'quota', 'blocked')", name="result"),
    info=_BY_WORKERS,
)

fact_followers_snapshot = Table(
    "fact_followers_snapshot",
    metadata,
    Column("account_key", BigInteger, primary_key=True),
    Column("snapshot_date", Date, primary_key=True),
    Column("followers", BigInteger),
    Column("following", BigInteger),
    Column("posts", BigInteger),
    Column("engagement", BigInteger, comment="likes, comments and shares of the last 30 days' posts"),
    Column("captured_at", UTC, nullable=False),
    Column("source", Text, nullable=False),
    Column("precision", Text, nullable=False),
    # No foreign key: an import is never removed, and looking it up would cost each row.
    Column("import_id", Integer, comment="which import brought it (history_import); null: a platform said it"),
    CheckConstraint(_SOURCES, name="source"),
    CheckConstraint(_PRECISIONS, name="precision"),
    postgresql_partition_by="RANGE (snapshot_date)",
    comment="one row per account and UTC day: the day's last good reading, else its last held one",
    info=_written(workers="INSERT, UPDATE"),
)
# grid.part: the rows of a day by account, newest day first, from any row on; out of the index alone.
Index(
    "ix_fact_followers_snapshot_day", fact_followers_snapshot.c.snapshot_date, fact_followers_snapshot.c.account_key
)

history_import = Table(
    "history_import",
    metadata,
    Column("import_id", Integer, Identity(always=True), primary_key=True),
    Column("file_name", Text, nullable=False, comment="without its folder; - for standard input"),
    Column("sha256", Text, comment="of the file as it was given; null: it came by a stream"),
    Column("size_bytes", BigInteger, comment="null: it came by a stream"),
    Column("imported_by", Text, nullable=False),
    Column("overwrite", Boolean, nullable=False, comment="readings of platforms gave way"),
    Column("started_at", UTC, nullable=False),
    Column("finished_at", UTC, comment="null: under way, or interrupted"),
    Column("rows", BigInteger, nullable=False, server_default="0", comment="of the file, done so far"),
    Column("inserted", BigInteger, nullable=False, server_default="0", comment="new days"),
    Column("updated", BigInteger, nullable=False, server_default="0", comment="of days that had other numbers"),
    Column("unchanged", BigInteger, nullable=False, server_default="0", comment="of days that had these numbers"),
    Column("outranked", BigInteger, nullable=False, server_default="0", comment="of days a platform was asked on"),
    Column("rejected", BigInteger, nullable=False, server_default="0"),
    Column("rejects_bytes", BigInteger, nullable=False, server_default="0", comment="of the file of rejects, so far"),
    comment="who imported which history and when, and how far it came",
    info=_BY_OWNER,
)

account_latest = Table(
    "account_latest",
    metadata,
    Column("account_key", ForeignKey("dim_account.account_key", ondelete="CASCADE"), primary_key=True),
    Column("snapshot_date", Date, nullable=False),
    Column("captured_at", UTC, nullable=False),
    Column("followers", BigInteger),
    Column("following", BigInteger),
    Column("posts", BigInteger),
    Column("engagement", BigInteger),
    Column("delta_1d", BigInteger, comment="followers less those of exactly 1 day before; null where no such row"),
    Column("delta_7d", BigInteger),
    Column("delta_30d", BigInteger),
    Column("source", Text, nullable=False),
    Column("precision", Text, nullable=False),
    Column("held_followers", BigInteger, comment="of a later, suspicious reading that awaits a second one"),
    Column("held_at", UTC, comment="when that one was captured; null where none waits"),
    Column("held_precision", Text, comment="what its snapshot gets back once it is confirmed"),
    CheckConstraint(_SOURCES, name="source"),
    CheckConstraint(_PRECISIONS, name="precision"),
    CheckConstraint("num_nonnulls(held_followers, held_at, held_precision) IN (0, 3)", name="held"),
    # Every reading updates its row, and none of its indexed columns: room on the page keeps that HOT.
    postgresql_with={"fillfactor": "70", "autovacuum_vacuum_scale_factor": "0.02"},
    comment="the newest accepted snapshot of each account, kept in the same transaction",
    info=_BY_WORKERS,
)

day_count = Table(
    "day_count",
    metadata,
    Column("platform", Text, server_default=""),
    Column("org_name", Text, server_default=""),
    Column("snapshot_date", Date),
    Column("snapshots", BigInteger, nullable=False),
    # totals and deep pages: the days of one platform, of one organisation, or of all, one row a day.
    PrimaryKeyConstraint("platform", "org_name", "snapshot_date"),
    postgresql_with={"fillfactor": "70", "autovacuum_vacuum_scale_factor": "0.02"},
    comment="rows of fact_followers_snapshot per day: of a platform, of an organisation, and of all (both empty)",
    info=_written(api=_ANY, workers=_ANY),
)

day_total = Table(
    "day_total",
    metadata,
    Column("platform", Text, server_default=""),
    Column("org_name", Text, server_default=""),
    Column("snapshot_date", Date),
    Column("accounts", BigInteger, comment="that count; null: being added up"),
    Column("carried", BigInteger, comment="of them, those that count with the number of an earlier day"),
    Column("followers", BigInteger),
    Column("delta", BigInteger, comment="to the day before, of the accounts that count on both"),
    Column("compared", BigInteger, comment="how many those are"),
    # totals.by_day: the days of all, of one platform, or of one organisation.
    PrimaryKeyConstraint("platform", "org_name", "snapshot_date"),
    comment="followers per day: of a platform, of an organisation, and of all (both empty); a day whose row of all is "
    "missing is added up when asked for. Triggers remove days whose snapshots or accounts change",
    info=_written(api="DELETE", workers=_ANY),
)
# What the triggers remove by.
Index("ix_day_total_snapshot_date", day_total.c.snapshot_date)

fact_social_post = Table(
    "fact_social_post",
    metadata,
    Column("account_key", ForeignKey("dim_account.account_key", ondelete="CASCADE"), primary_key=True),
    Column("post_id", Text, primary_key=True),
    Column("url", Text, nullable=False),
    Column("published_at", UTC, nullable=False),
    Column("post_type", Text, nullable=False),
    Column("text", Text, nullable=False),
    Column("likes", BigInteger),
    Column("comments", BigInteger),
    Column("shares", BigInteger),
    Column("views", BigInteger),
    Column("read_at", UTC, nullable=False),
    Column("source", Text, nullable=False),
    CheckConstraint(_SOURCES, name="source"),
    info=_written(workers="INSERT, UPDATE"),
)
# writes: engagement of the last days; posts.part: an account's posts, newest first, from any one on.
Index("ix_fact_social_post_published", fact_social_post.c.account_key, fact_social_post.c.published_at.desc())

dataset = Table(
    "dataset",
    metadata,
    Column("one", Boolean, primary_key=True, server_default=text("true")),
    Column("source", Text, nullable=False),
    CheckConstraint("one", name="one"),
    CheckConstraint("source IN ('live', 'simulated')", name="source"),
    comment="one row: what this database holds. Live and simulated readings never mix",
    info=_written(workers="INSERT"),
)

# Metrics: what every process counted, by series (a metric and the values of its labels). Sums hold counts, or the seconds
# of what was timed; `buckets` then counts the times by pipeline.metrics.BOUNDS, and is null for what is only counted.
metric_series = Table(
    "metric_series",
    metadata,
    Column("series_id", Integer, Identity(always=True), primary_key=True),
    Column("name", Text, nullable=False),
    Column("labels", ARRAY(Text), nullable=False, comment="values, in the order in which the metric declares them"),
    Column("since", UTC, nullable=False, comment="the first minute counted"),
    Column("total", Float, nullable=False, comment="since then; it never falls"),
    Column("buckets", ARRAY(BigInteger)),
    UniqueConstraint("name", "labels", name="uq_metric_series"),
    # Every row may change each second, and no indexed column of it.
    postgresql_with=_HOT,
    info=_BY_WORKERS,
)


def _rollup(name: str) -> Table:
    return Table(
        name,
        metadata,
        Column("at", UTC, primary_key=True),
        # No foreign key: a series never goes alone, and looking it up would cost each row.
        Column("series_id", Integer, primary_key=True),
        Column("total", Float, nullable=False),
        Column("buckets", ARRAY(BigInteger)),
        postgresql_with=_HOT,
        info=_BY_WORKERS,
    )


metric_minute = _rollup("metric_minute")
metric_hour = _rollup("metric_hour")

metric_sender = Table(
    "metric_sender",
    metadata,
    Column("sender", Text, primary_key=True, comment="one process, from its start to its end"),
    Column("role", Text, nullable=False),
    Column("seen", INT8MULTIRANGE, nullable=False, comment="the numbers of its messages that have been counted"),
    Column("newest_at", UTC, nullable=False, comment="time of its newest message, by its own clock"),
    Column("gauges", JSONB, nullable=False, comment="[[name, labels, value]] of its newest message"),
    postgresql_with=_HOT,
    info=_BY_WORKERS,
)

lease = Table(
    "lease",
    metadata,
    Column("name", Text, primary_key=True),
    Column("holder", Text, nullable=False),
    Column("until", UTC, nullable=False),
    comment="work that one process does while others stand by",
    info=_BY_WORKERS,
)

annotation = Table(
    "annotation",
    metadata,
    Column("annotation_id", BigInteger, Identity(always=True), primary_key=True),
    Column(
        "account_key", ForeignKey("dim_account.account_key", ondelete="CASCADE"), comment="null: not of one account"
    ),
    Column("org_name", Text, comment="null with account_key null: of all"),
    Column("from_date", Date, nullable=False),
    Column("to_date", Date, nullable=False),
    Column("note", Text, nullable=False),
    Column("created_by", Text, nullable=False),
    Column("created_at", UTC, nullable=False, server_default=func.now()),
    CheckConstraint("from_date <= to_date", name="range"),
)
# reads.notes: those of an account; those of an organisation or of all.
Index("ix_annotation_account_key", annotation.c.account_key, postgresql_where=annotation.c.account_key.is_not(None))
Index("ix_annotation_org_name", annotation.c.org_name, postgresql_where=annotation.c.account_key.is_(None))

api_key = Table(
    "api_key",
    metadata,
    Column("key_id", Text, primary_key=True, comment="the public part of rc_<key_id>_<secret>"),
    Column("name", Text, nullable=False),
    Column("key_hash", LargeBinary, nullable=False, comment="SHA-256 of the secret (256 random bits)"),
    Column("scopes", ARRAY(Text), nullable=False),
    Column("created_at", UTC, nullable=False, server_default=func.now()),
    Column("revoked_at", UTC),
    info=_written(api="INSERT, UPDATE"),
)

sign_in = Table(
    "sign_in",
    metadata,
    Column("token_hash", LargeBinary, primary_key=True, comment="SHA-256 of what the cookie holds (256 random bits)"),
    Column("key_id", ForeignKey("api_key.key_id", ondelete="CASCADE"), nullable=False),
    Column("began_at", UTC, nullable=False),
    Column("ends_at", UTC, nullable=False),
    comment="browsers that are signed in by a key; the key itself isn't here",
)

report_delivery = Table(
    "report_delivery",
    metadata,
    Column("week_date", Date, comment="the Monday of the week that the report is about"),
    Column("org_name", Text, comment="empty: the report on all organisations"),
    Column("recipient", Text, comment="an e-mail address"),
    Column("attempts", Integer, nullable=False),
    Column(
        "next_try_at",
        UTC,
        nullable=False,
        comment="infinity once it is sent, or given up; while it is sent, when it may be taken over",
    ),
    Column("sent_at", UTC),
    Column("reason", Text, comment="why the last attempt failed"),
    PrimaryKeyConstraint("week_date", "org_name", "recipient"),
    comment="which weekly report went to whom, so that none goes twice",
    info=_BY_WORKERS,
)
