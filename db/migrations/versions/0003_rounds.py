"""Readings are spread over the day: accounts have a seat in the round and may have an interval of their own.

Claims of platforms that are many servers get an index of their own, and the tables that every reading touches are
vacuumed while little of them is dead.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

# A sweep leaves two dead rows per account and job: PostgreSQL's own 20 % of a million would be found by every claim.
_HOT = {
    "scrape_state": {
        "fillfactor": 80,
        "autovacuum_vacuum_scale_factor": 0.02,
        "autovacuum_analyze_scale_factor": 0.05,
    },
    "scrape_job": {"fillfactor": 80, "autovacuum_vacuum_scale_factor": 0.02, "autovacuum_analyze_scale_factor": 0.05},
}


def upgrade() -> None:
    op.add_column(
        "dim_account",
        sa.Column(
            "seat",
            sa.Integer(),
            server_default="0",
            nullable=False,
            comment="its number among those of its platform and host: neighbours are read together",
        ),
    )
    op.add_column(
        "dim_account",
        sa.Column(
            "read_interval_s", sa.Integer(), comment="seconds between two readings; null: as its platform's are"
        ),
    )
    op.create_check_constraint(op.f("ck_dim_account_read_interval"), "dim_account", "read_interval_s > 0")
    op.execute(
        """
        UPDATE dim_account SET seat = counted.seat
        FROM (
            SELECT account_key, row_number() OVER (PARTITION BY platform, host ORDER BY account_key) - 1 AS seat
            FROM dim_account
        ) AS counted
        WHERE dim_account.account_key = counted.account_key
        """
    )
    op.drop_index("ix_scrape_state_claim", "scrape_state")
    urgency: list[Any] = [sa.literal_column("is_core DESC"), "next_due_at"]
    of_lane: list[Any] = ["platform", "kind", sa.literal_column("(failures > 0)")]
    op.create_index(
        "ix_scrape_state_claim", "scrape_state", [*of_lane, *urgency], postgresql_where=sa.text("job_id IS NULL")
    )
    op.create_index(
        "ix_scrape_state_claim_of_host",
        "scrape_state",
        [*of_lane, "host", *urgency],
        postgresql_where=sa.text("job_id IS NULL AND host <> ''"),
    )
    for table, options in _HOT.items():
        op.execute(f"ALTER TABLE {table} SET ({', '.join(f'{name} = {value}' for name, value in options.items())})")


def downgrade() -> None:
    for table, options in _HOT.items():
        op.execute(f"ALTER TABLE {table} RESET ({', '.join(options)})")
    op.drop_index("ix_scrape_state_claim_of_host", "scrape_state")
    op.drop_index("ix_scrape_state_claim", "scrape_state")
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
    op.drop_column("dim_account", "read_interval_s")
    op.drop_column("dim_account", "seat")
