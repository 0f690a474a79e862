"""Which weekly report went to whom."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import TIMESTAMP

revision = "0013"
down_revision = "0011"
branch_labels = None
depends_on = None

_UTC = TIMESTAMP(timezone=True)


def upgrade() -> None:
    op.create_table(
        "report_delivery",
        sa.Column("week_date", sa.Date(), comment="the Monday of the week that the report is about"),
        sa.Column("org_name", sa.Text(), comment="empty: the report on all organisations"),
        sa.Column("recipient", sa.Text(), comment="an e-mail address"),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column(
            "next_try_at",
            _UTC,
            nullable=False,
            comment="infinity once it is sent, or given up; while it is sent, when it may be taken over",
        ),
        sa.Column("sent_at", _UTC),
        sa.Column("reason", sa.Text(), comment="why the last attempt failed"),
        sa.PrimaryKeyConstraint("week_date", "org_name", "recipient", name="pk_report_delivery"),
        comment="which weekly report went to whom, so that none goes twice",
    )


def downgrade() -> None:
    op.drop_table("report_delivery")
