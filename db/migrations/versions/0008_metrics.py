"""What every process counts, by series, minute and hour; which messages were counted; leases.

scrape_metric goes: it knew no percentiles, and counted a message twice that came twice.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY, INT8MULTIRANGE, JSONB, TIMESTAMP

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_UTC = TIMESTAMP(timezone=True)
_HOT = {"fillfactor": "80", "autovacuum_vacuum_scale_factor": "0.02", "autovacuum_analyze_scale_factor": "0.05"}


def upgrade() -> None:
    op.create_table(
        "metric_series",
        sa.Column("series_id", sa.Integer(), sa.Identity(always=True)),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column(
            "labels",
            ARRAY(sa.Text()),
            nullable=False,
            comment="values, in the order in which the metric declares them",
        ),
        sa.Column("since", _UTC, nullable=False, comment="the first minute counted"),
        sa.Column("total", sa.Float(), nullable=False, comment="since then; it never falls"),
        sa.Column("buckets", ARRAY(sa.BigInteger())),
        sa.PrimaryKeyConstraint("series_id", name="pk_metric_series"),
        sa.UniqueConstraint("name", "labels", name="uq_metric_series"),
        postgresql_with=_HOT,
    )
    for name in ("metric_minute", "metric_hour"):
        op.create_table(
            name,
            sa.Column("at", _UTC, nullable=False),
            sa.Column("series_id", sa.Integer(), nullable=False),
            sa.Column("total", sa.Float(), nullable=False),
            sa.Column("buckets", ARRAY(sa.BigInteger())),
            sa.PrimaryKeyConstraint("at", "series_id", name=f"pk_{name}"),
            postgresql_with=_HOT,
        )
    op.create_table(
        "metric_sender",
        sa.Column("sender", sa.Text(), nullable=False, comment="one process, from its start to its end"),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column(
            "seen", INT8MULTIRANGE(), nullable=False, comment="the numbers of its messages that have been counted"
        ),
        sa.Column("newest_at", _UTC, nullable=False, comment="time of its newest message, by its own clock"),
        sa.Column("gauges", JSONB(), nullable=False, comment="[[name, labels, value]] of its newest message"),
        sa.PrimaryKeyConstraint("sender", name="pk_metric_sender"),
        postgresql_with=_HOT,
    )
    op.create_table(
        "lease",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("holder", sa.Text(), nullable=False),
        sa.Column("until", _UTC, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_lease"),
        comment="work that one process does while others stand by",
    )
    op.drop_table("scrape_metric")


def downgrade() -> None:
    op.create_table(
        "scrape_metric",
        sa.Column("minute", _UTC, nullable=False),
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
    for name in ("lease", "metric_sender", "metric_hour", "metric_minute", "metric_series"):
        op.drop_table(name)
