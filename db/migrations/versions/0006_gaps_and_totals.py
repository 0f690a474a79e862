"""Why accounts have no reading on a day; followers per day, added up once."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_COUNTS = {
    "accounts": "that count; null: being added up",
    "carried": "of them, those that count with the number of an earlier day",
    "followers": None,
    "delta": "to the day before, of the accounts that count on both",
    "compared": "how many those are",
}
# What is known of today's gaps; the jobs know more of the last days, but not of which attempt was a day's last.
_SEED = """
    INSERT INTO account_gap (account_key, from_date, to_date, result, reason)
    SELECT account_key, day, CASE WHEN is_active AND result = 'failed' THEN day END,
        CASE WHEN NOT is_active THEN 'paused' WHEN explained THEN coalesce(result, 'blocked') ELSE result END,
        CASE WHEN is_active THEN reason END
    FROM scrape_state JOIN dim_account USING (account_key)
    CROSS JOIN LATERAL (SELECT (coalesce(last_attempt_at, now()) AT TIME ZONE 'UTC')::date AS day) AS since
    WHERE subject = 'profile' AND (NOT is_active OR explained OR result IN ('gone', 'failed', 'blocked'))
"""
# A number counts for the six days that follow, too (db.totals), and a difference for the day after those.
_FUNCTIONS = """
    CREATE FUNCTION day_total_of_changed_days() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        DELETE FROM day_total
        USING (SELECT min(snapshot_date) AS first, max(snapshot_date) AS last FROM changed) AS days
        WHERE snapshot_date BETWEEN days.first AND days.last + 7;
        RETURN NULL;
    END $$;
    CREATE FUNCTION day_total_of_changed_accounts() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        DELETE FROM day_total;
        RETURN NULL;
    END $$;
    CREATE TRIGGER day_total_moved AFTER UPDATE OF org_name ON dim_account
        FOR EACH ROW WHEN (OLD.org_name IS DISTINCT FROM NEW.org_name)
        EXECUTE FUNCTION day_total_of_changed_accounts();
    CREATE TRIGGER day_total_removed AFTER DELETE ON dim_account
        FOR EACH STATEMENT EXECUTE FUNCTION day_total_of_changed_accounts();
"""
_OF_FACTS = {"INSERT": "NEW", "UPDATE": "OLD", "DELETE": "OLD"}


def upgrade() -> None:
    op.create_table(
        "account_gap",
        sa.Column("account_key", sa.BigInteger(), nullable=False),
        sa.Column("from_date", sa.Date(), nullable=False),
        sa.Column("to_date", sa.Date(), comment="null: until something else is said"),
        sa.Column("result", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text()),
        sa.CheckConstraint("result IN ('gone', 'failed', 'blocked', 'paused')", name=op.f("ck_account_gap_result")),
        sa.CheckConstraint("from_date <= to_date", name=op.f("ck_account_gap_range")),
        sa.ForeignKeyConstraint(
            ["account_key"], ["dim_account.account_key"], name="fk_account_gap_account_key", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("account_key", "from_date", name="pk_account_gap"),
        comment="why an account has no reading on these days; days that have one may lie among them",
    )
    op.execute(_SEED)
    op.create_table(
        "day_total",
        sa.Column("platform", sa.Text(), server_default="", nullable=False),
        sa.Column("org_name", sa.Text(), server_default="", nullable=False),
        sa.Column("snapshot_date", sa.Date(), nullable=False),
        *(sa.Column(name, sa.BigInteger(), comment=comment) for name, comment in _COUNTS.items()),
        sa.PrimaryKeyConstraint("platform", "org_name", "snapshot_date", name="pk_day_total"),
        comment="followers per day: of a platform, of an organisation, and of all (both empty); a day whose row of all "
        "is missing is added up when asked for. Triggers remove days whose snapshots or accounts change",
    )
    op.create_index("ix_day_total_snapshot_date", "day_total", ["snapshot_date"])
    op.execute(_FUNCTIONS)
    for event, rows in _OF_FACTS.items():
        op.execute(f"""
            CREATE TRIGGER day_total_{event.lower()} AFTER {event} ON fact_followers_snapshot
            REFERENCING {rows} TABLE AS changed
            FOR EACH STATEMENT EXECUTE FUNCTION day_total_of_changed_days()
        """)


def downgrade() -> None:
    for event in _OF_FACTS:
        op.execute(f"DROP TRIGGER day_total_{event.lower()} ON fact_followers_snapshot")
    for trigger in ("moved", "removed"):
        op.execute(f"DROP TRIGGER day_total_{trigger} ON dim_account")
    for function in ("days", "accounts"):
        op.execute(f"DROP FUNCTION day_total_of_changed_{function}")
    op.drop_table("day_total")
    op.drop_table("account_gap")
