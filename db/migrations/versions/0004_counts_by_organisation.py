"""Days are counted by organisation and in total as well; hot tables are vacuumed sooner and leave room on their pages."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_HOT = ("account_latest", "day_count")
_OF_PLATFORMS = "rows of fact_followers_snapshot per day and platform, kept in the same transaction"


def upgrade() -> None:
    op.add_column("day_count", sa.Column("org_name", sa.Text(), server_default="", nullable=False))
    op.alter_column("day_count", "platform", server_default="")
    op.drop_constraint("pk_day_count", "day_count")
    op.create_primary_key("pk_day_count", "day_count", ["platform", "org_name", "snapshot_date"])
    op.execute("""
        INSERT INTO day_count (snapshot_date, snapshots) SELECT snapshot_date, sum(snapshots) FROM day_count GROUP BY 1
    """)
    op.execute("""
        INSERT INTO day_count (snapshot_date, org_name, snapshots)
        SELECT snapshot_date, org_name, count(*)
        FROM fact_followers_snapshot JOIN dim_account USING (account_key)
        WHERE org_name <> '' GROUP BY snapshot_date, org_name
    """)
    op.create_table_comment(
        "day_count",
        "rows of fact_followers_snapshot per day: of a platform, of an organisation, and of all (both empty)",
    )
    op.create_index(
        "ix_annotation_account_key",
        "annotation",
        ["account_key"],
        postgresql_where=sa.text("account_key IS NOT NULL"),
    )
    op.create_index(
        "ix_annotation_org_name", "annotation", ["org_name"], postgresql_where=sa.text("account_key IS NULL")
    )
    for table in _HOT:
        op.execute(f"ALTER TABLE {table} SET (autovacuum_vacuum_scale_factor = 0.02)")
    _of_partitions("SET (fillfactor = 90)")


def downgrade() -> None:
    _of_partitions("RESET (fillfactor)")
    for table in _HOT:
        op.execute(f"ALTER TABLE {table} RESET (autovacuum_vacuum_scale_factor)")
    op.drop_index("ix_annotation_org_name", "annotation")
    op.drop_index("ix_annotation_account_key", "annotation")
    op.create_table_comment("day_count", _OF_PLATFORMS)
    op.execute("DELETE FROM day_count WHERE platform = ''")
    op.drop_constraint("pk_day_count", "day_count")
    op.create_primary_key("pk_day_count", "day_count", ["snapshot_date", "platform"])
    op.alter_column("day_count", "platform", server_default=None)
    op.drop_column("day_count", "org_name")


def _of_partitions(change: str) -> None:
    """Change the storage of every partition: the partitioned table itself has none."""
    op.execute(f"""
        DO $$
        DECLARE partition regclass;
        BEGIN
            FOR partition IN SELECT inhrelid FROM pg_inherits WHERE inhparent = 'fact_followers_snapshot'::regclass
            LOOP
                EXECUTE format('ALTER TABLE %s {change}', partition);
            END LOOP;
        END $$
    """)  # noqa: S608  # one of two words
