"""The first schema: accounts, snapshots and posts, and the tables that the pipeline works on.

The snapshots' default partition takes rows of days that no other partition covers (see db.partitions).
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

UTC = postgresql.TIMESTAMP(timezone=True)


def upgrade() -> None:
    op.create_table(
        "api_key",
        sa.Column("key_id", sa.Text(), nullable=False, comment="the public part of rc_<key_id>_<secret>"),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("key_hash", sa.LargeBinary(), nullable=False, comment="SHA-256 of the secret (256 random bits)"),
        sa.Column("scopes", sa.ARRAY(sa.Text()), nullable=False),
        sa.Column("created_at", UTC, server_default=sa.text("now()"), nullable=False),
        sa.Column("revoked_at", UTC),
        sa.PrimaryKeyConstraint("key_id", name="pk_api_key"),
    )

    op.create_table(
        "dataset",
        sa.Column("one", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.CheckConstraint("source IN ('live', 'simulated')", name="ck_dataset_source"),
        sa.CheckConstraint("one", name="ck_dataset_one"),
        sa.PrimaryKeyConstraint("one", name="pk_dataset"),
        comment="one row: what this database holds. Live and simulated readings never mix",
    )

    op.create_table(
        "day_count",
        sa.Column("snapshot_date", sa.Date(), nullable=False),
        sa.Column("platform", sa.Text(), nullable=False),
        sa.Column("snapshots", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("snapshot_date", "platform", name="pk_day_count"),
        comment="rows of fact_followers_snapshot per day and platform, kept in the same transaction",
        postgresql_with={"fillfactor": "70"},
    )

    op.create_table(
        "dim_account",
        sa.Column("account_key", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("platform", sa.Text(), nullable=False),
        sa.Column(
            "host", sa.Text(), server_default="", nullable=False, comment="only where a platform is many servers"
        ),
        sa.Column("handle", sa.Text(), nullable=False, comment="the name as the platform writes it today"),
        sa.Column("external_id", sa.Text(), comment="the platform's stable id, kept from first sight"),
        sa.Column("url", sa.Text(), nullable=False, comment="the address as imported"),
        sa.Column("org_name", sa.Text()),
        sa.Column("owner_team", sa.Text()),
        sa.Column("account_type", sa.Text()),
        sa.Column("is_core_account", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("is_active", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("display_name", sa.Text()),
        sa.Column("bio", sa.Text()),
        sa.Column("avatar_url", sa.Text()),
        sa.Column("verified", sa.Boolean()),
        sa.Column("added_at", UTC, server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("account_key", name="pk_dim_account"),
    )
    op.create_index(
        "uq_dim_account_external_id",
        "dim_account",
        ["platform", "host", "external_id"],
        unique=True,
        postgresql_where=sa.text("external_id IS NOT NULL"),
    )
    op.create_index(
        "uq_dim_account_handle", "dim_account", ["platform", "host", sa.literal_column("lower(handle)")], unique=True
    )

    op.create_table(
        "fact_followers_snapshot",
        sa.Column("account_key", sa.BigInteger(), nullable=False),
        sa.Column("snapshot_date", sa.Date(), nullable=False),
        sa.Column("followers", sa.BigInteger()),
        sa.Column("following", sa.BigInteger()),
        sa.Column("posts", sa.BigInteger()),
        sa.Column("engagement", sa.BigInteger(), comment="likes, comments and shares of the last 30 days' posts"),
        sa.Column("captured_at", UTC, nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("precision", sa.Text(), nullable=False),
        sa.CheckConstraint(
            "precision IN ('exact', 'rounded', 'hidden', 'held')", name="ck_fact_followers_snapshot_precision"
        ),
        sa.CheckConstraint("source IN ('live', 'simulated', 'imported')", name="ck_fact_followers_snapshot_source"),
        sa.PrimaryKeyConstraint("account_key", "snapshot_date", name="pk_fact_followers_snapshot"),
        comment="one row per account and UTC day: the day's last good reading",
        postgresql_partition_by="RANGE (snapshot_date)",
    )

    op.create_table(
        "platform_pause",
        sa.Column("platform", sa.Text(), nullable=False),
        sa.Column("credential", sa.Text(), nullable=False, comment="the label of the set that is paused, no secret"),
        sa.Column("until", UTC, nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("result", sa.Text(), nullable=False, comment="limited, quota or blocked"),
        sa.CheckConstraint("result IN ('limited', 'quota', 'blocked')", name="ck_platform_pause_result"),
        sa.PrimaryKeyConstraint("platform", "credential", name="pk_platform_pause"),
    )

    op.create_table(
        "scrape_job",
        sa.Column("job_id", postgresql.UUID(as_uuid=False), nullable=False),
        sa.Column("platform", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("lane", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("accounts", sa.ARRAY(sa.BigInteger()), nullable=False),
        sa.Column("cursor", sa.Text(), comment="where a further page of posts begins"),
        sa.Column("page", sa.SmallInteger(), server_default="1", nullable=False),
        sa.Column(
            "size", sa.SmallInteger(), comment="most accounts to ask for at once, where the whole batch was refused"
        ),
        sa.Column("requested_by", sa.Text()),
        sa.Column("attempt", sa.SmallInteger(), server_default="0", nullable=False, comment="deliveries that began"),
        sa.Column("lease_until", UTC, nullable=False),
        sa.Column("created_at", UTC, nullable=False),
        sa.Column("started_at", UTC),
        sa.Column("finished_at", UTC),
        sa.Column("reason", sa.Text()),
        sa.Column("outcomes", postgresql.JSONB(), comment="[{account_key, result, reason}] once it has finished"),
        sa.CheckConstraint("lane IN ('user_requested', 'core', 'retry')", name="ck_scrape_job_lane"),
        sa.CheckConstraint(
            "state IN ('queued', 'running', 'succeeded', 'partly_failed', 'failed')", name="ck_scrape_job_state"
        ),
        sa.PrimaryKeyConstraint("job_id", name="pk_scrape_job"),
    )
    op.create_index("ix_scrape_job_created_at", "scrape_job", ["created_at"])
    op.create_index(
        "ix_scrape_job_open",
        "scrape_job",
        ["platform", "kind", "lease_until"],
        postgresql_where=sa.text("state IN ('queued', 'running')"),
    )

    op.create_table(
        "scrape_metric",
        sa.Column("minute", UTC, nullable=False),
        sa.Column("platform", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("lane", sa.Text(), nullable=False),
        sa.Column(
            "outcome", sa.Text(), nullable=False, comment="of the job: succeeded, partly_failed, failed or released"
        ),
        sa.Column("calls", sa.BigInteger(), nullable=False),
        sa.Column("accounts", sa.BigInteger(), nullable=False),
        sa.Column("failed_accounts", sa.BigInteger(), nullable=False),
        sa.Column("duration_s", sa.Float(), nullable=False, comment="summed"),
        sa.Column("longest_s", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("minute", "platform", "kind", "lane", "outcome", name="pk_scrape_metric"),
    )

    op.create_table(
        "account_handle",
        sa.Column("account_key", sa.BigInteger(), nullable=False),
        sa.Column("handle", sa.Text(), nullable=False),
        sa.Column("first_seen_at", UTC, server_default=sa.text("now()"), nullable=False),
        sa.Column("last_seen_at", UTC, server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["account_key"], ["dim_account.account_key"], name="fk_account_handle_account_key", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("account_key", "handle", name="pk_account_handle"),
        comment="every name an account has had, the present one included",
    )
    op.create_index("ix_account_handle_lower", "account_handle", [sa.literal_column("lower(handle)")])

    op.create_table(
        "account_latest",
        sa.Column("account_key", sa.BigInteger(), nullable=False),
        sa.Column("snapshot_date", sa.Date(), nullable=False),
        sa.Column("captured_at", UTC, nullable=False),
        sa.Column("followers", sa.BigInteger()),
        sa.Column("following", sa.BigInteger()),
        sa.Column("posts", sa.BigInteger()),
        sa.Column("engagement", sa.BigInteger()),
        sa.Column(
            "delta_1d",
            sa.BigInteger(),
            comment="followers less those of exactly 1 day before; null where no such row",
        ),
        sa.Column("delta_7d", sa.BigInteger()),
        sa.Column("delta_30d", sa.BigInteger()),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("precision", sa.Text(), nullable=False),
        sa.CheckConstraint("precision IN ('exact', 'rounded', 'hidden', 'held')", name="ck_account_latest_precision"),
        sa.CheckConstraint("source IN ('live', 'simulated', 'imported')", name="ck_account_latest_source"),
        sa.ForeignKeyConstraint(
            ["account_key"], ["dim_account.account_key"], name="fk_account_latest_account_key", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("account_key", name="pk_account_latest"),
        comment="the newest snapshot of each account, kept in the same transaction",
        postgresql_with={"fillfactor": "70"},
    )

    op.create_table(
        "annotation",
        sa.Column("annotation_id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("account_key", sa.BigInteger(), comment="null: not of one account"),
        sa.Column("org_name", sa.Text(), comment="null with account_key null: of all"),
        sa.Column("from_date", sa.Date(), nullable=False),
        sa.Column("to_date", sa.Date(), nullable=False),
        sa.Column("note", sa.Text(), nullable=False),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column("created_at", UTC, server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("from_date <= to_date", name="ck_annotation_range"),
        sa.ForeignKeyConstraint(
            ["account_key"], ["dim_account.account_key"], name="fk_annotation_account_key", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("annotation_id", name="pk_annotation"),
    )

    op.create_table(
        "fact_social_post",
        sa.Column("account_key", sa.BigInteger(), nullable=False),
        sa.Column("post_id", sa.Text(), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("published_at", UTC, nullable=False),
        sa.Column("post_type", sa.Text(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("likes", sa.BigInteger()),
        sa.Column("comments", sa.BigInteger()),
        sa.Column("shares", sa.BigInteger()),
        sa.Column("views", sa.BigInteger()),
        sa.Column("read_at", UTC, nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.CheckConstraint("source IN ('live', 'simulated', 'imported')", name="ck_fact_social_post_source"),
        sa.ForeignKeyConstraint(
            ["account_key"], ["dim_account.account_key"], name="fk_fact_social_post_account_key", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("account_key", "post_id", name="pk_fact_social_post"),
    )
    op.create_index(
        "ix_fact_social_post_published", "fact_social_post", ["account_key", sa.literal_column("published_at DESC")]
    )

    op.create_table(
        "scrape_state",
        sa.Column("account_key", sa.BigInteger(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False, comment="profile or posts"),
        sa.Column("platform", sa.Text(), nullable=False),
        sa.Column("host", sa.Text(), server_default="", nullable=False),
        sa.Column(
            "kind", sa.Text(), nullable=False, comment="the call that reads it next: resolve, profiles or posts"
        ),
        sa.Column("is_core", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("next_due_at", UTC, nullable=False, comment="infinity while the account is paused"),
        sa.Column(
            "job_id", postgresql.UUID(as_uuid=False), comment="the job it is on its way in; its lease is the job's"
        ),
        sa.Column("failures", sa.Integer(), server_default="0", nullable=False, comment="in a row"),
        sa.Column(
            "result", sa.Text(), comment="of the last attempt: ok, gone, failed or blocked; null before the first"
        ),
        sa.Column("reason", sa.Text()),
        sa.Column(
            "explained",
            sa.Boolean(),
            server_default=sa.text("false"),
            nullable=False,
            comment="result and reason say why the platform can't be read at all, not how an attempt ended",
        ),
        sa.Column("last_attempt_at", UTC),
        sa.Column("last_success_at", UTC),
        sa.CheckConstraint("result IN ('ok', 'gone', 'failed', 'blocked')", name="ck_scrape_state_result"),
        sa.CheckConstraint("subject IN ('profile', 'posts')", name="ck_scrape_state_subject"),
        sa.ForeignKeyConstraint(
            ["account_key"], ["dim_account.account_key"], name="fk_scrape_state_account_key", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("account_key", "subject", name="pk_scrape_state"),
    )
    op.create_index(
        "ix_scrape_state_claim",
        "scrape_state",
        [
            "platform",
            "kind",
            sa.literal_column("(failures > 0)"),
            sa.literal_column("is_core DESC"),
            "next_due_at",
            "host",
        ],
        postgresql_where=sa.text("job_id IS NULL"),
    )
    op.create_index("ix_scrape_state_explained", "scrape_state", ["platform"], postgresql_where=sa.text("explained"))
    op.create_index(
        "ix_scrape_state_job_id", "scrape_state", ["job_id"], postgresql_where=sa.text("job_id IS NOT NULL")
    )
    op.execute("CREATE TABLE fact_followers_snapshot_default PARTITION OF fact_followers_snapshot DEFAULT")
