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
    SmallInteger,
    Table,
    Text,
    func,
    literal_column,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB, TIMESTAMP, UUID

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
_SOURCES = "source IN ('live', 'simulated', 'imported')"
_PRECISIONS = "precision IN ('exact', 'rounded', 'hidden', 'held')"

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
)
# claims.claim_due: of one platform, kind of call and lane, the core accounts first, then the longest due. The host
# comes last, so that rows of other hosts are passed over in the index.
Index(
    "ix_scrape_state_claim",
    scrape_state.c.platform,
    scrape_state.c.kind,
    (scrape_state.c.failures > 0),
    scrape_state.c.is_core.desc(),
    scrape_state.c.next_due_at,
    scrape_state.c.host,
    postgresql_where=scrape_state.c.job_id.is_(None),
)
# claims: the accounts of a job.
Index("ix_scrape_state_job_id", scrape_state.c.job_id, postgresql_where=scrape_state.c.job_id.is_not(None))
# claims.clear_explained: usually none.
Index("ix_scrape_state_explained", scrape_state.c.platform, postgresql_where=text("explained"))

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

platform_pause = Table(
    "platform_pause",
    metadata,
    Column("platform", Text, primary_key=True),
    Column("credential", Text, primary_key=True, comment="the label of the set that is paused, no secret"),
    Column("until", UTC, nullable=False),
    Column("reason", Text, nullable=False),
    Column("result", Text, nullable=False, comment="limited, quota or blocked"),
    CheckConstraint("result IN ('limited', 'quota', 'blocked')", name="result"),
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
    CheckConstraint(_SOURCES, name="source"),
    CheckConstraint(_PRECISIONS, name="precision"),
    postgresql_partition_by="RANGE (snapshot_date)",
    comment="one row per account and UTC day: the day's last good reading, else its last held one",
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
    postgresql_with={"fillfactor": "70"},
    comment="the newest accepted snapshot of each account, kept in the same transaction",
)

day_count = Table(
    "day_count",
    metadata,
    Column("snapshot_date", Date, primary_key=True),
    Column("platform", Text, primary_key=True),
    Column("snapshots", BigInteger, nullable=False),
    postgresql_with={"fillfactor": "70"},
    comment="rows of fact_followers_snapshot per day and platform, kept in the same transaction",
)

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
)
# writes: engagement of the last days; reads: an account's posts, newest first.
Index("ix_fact_social_post_published", fact_social_post.c.account_key, fact_social_post.c.published_at.desc())

dataset = Table(
    "dataset",
    metadata,
    Column("one", Boolean, primary_key=True, server_default=text("true")),
    Column("source", Text, nullable=False),
    CheckConstraint("one", name="one"),
    CheckConstraint("source IN ('live', 'simulated')", name="source"),
    comment="one row: what this database holds. Live and simulated readings never mix",
)

scrape_metric = Table(
    "scrape_metric",
    metadata,
    Column("minute", UTC, primary_key=True),
    Column("platform", Text, primary_key=True),
    Column("kind", Text, primary_key=True),
    Column("lane", Text, primary_key=True),
    Column("outcome", Text, primary_key=True, comment="of the job: succeeded, partly_failed, failed or released"),
    Column("calls", BigInteger, nullable=False),
    Column("accounts", BigInteger, nullable=False),
    Column("failed_accounts", BigInteger, nullable=False),
    Column("duration_s", Float, nullable=False, comment="summed"),
    Column("longest_s", Float, nullable=False),
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

api_key = Table(
    "api_key",
    metadata,
    Column("key_id", Text, primary_key=True, comment="the public part of rc_<key_id>_<secret>"),
    Column("name", Text, nullable=False),
    Column("key_hash", LargeBinary, nullable=False, comment="SHA-256 of the secret (256 random bits)"),
    Column("scopes", ARRAY(Text), nullable=False),
    Column("created_at", UTC, nullable=False, server_default=func.now()),
    Column("revoked_at", UTC),
)
