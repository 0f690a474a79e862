"""Alerts, and how far each has been told on which channel."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB, TIMESTAMP

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

_UTC = TIMESTAMP(timezone=True)


def upgrade() -> None:
    op.create_table(
        "alert",
        sa.Column("alert_id", sa.BigInteger(), sa.Identity(always=True)),
        sa.Column("rule", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False, comment="what it is about, in the words of its rule"),
        sa.Column("platform", sa.Text()),
        sa.Column("title", sa.Text(), nullable=False, comment="as it was last found, as are the next two"),
        sa.Column(
            "detail", JSONB(), nullable=False, comment="{why, accounts}: the first of the accounts by their names"
        ),
        sa.Column("accounts", sa.BigInteger(), comment="how many it is about; null: not about accounts"),
        sa.Column("raised_at", _UTC, nullable=False),
        sa.Column("seen_at", _UTC, nullable=False, comment="when it was last found"),
        sa.Column("resolved_at", _UTC, comment="null: open"),
        sa.Column("muted_until", _UTC),
        sa.PrimaryKeyConstraint("alert_id", name="pk_alert"),
        sa.CheckConstraint(
            "rule IN ('drop', 'spike', 'stale', 'failing', 'blocked', 'token', 'quota', 'budget')",
            name="ck_alert_rule",
        ),
        comment="what somebody should know of: a row per event",
    )
    op.create_index(
        "uq_alert_open", "alert", ["rule", "subject"], unique=True, postgresql_where=sa.text("resolved_at IS NULL")
    )
    op.create_index("ix_alert_raised_at", "alert", ["raised_at"])
    op.create_table(
        "alert_delivery",
        sa.Column("alert_id", sa.BigInteger(), nullable=False),
        sa.Column("channel", sa.Text(), nullable=False),
        sa.Column("due_at", _UTC, comment="when it is to be told there next; null: never again"),
        sa.Column("claimed_until", _UTC, comment="a process is about to tell it, and has so long"),
        sa.Column("told_at", _UTC, comment="when it was last told there; null: not yet"),
        sa.Column("told_accounts", sa.BigInteger(), comment="how many accounts it was about then"),
        sa.Column("failures", sa.Integer(), nullable=False, server_default="0", comment="in a row"),
        sa.Column("error", sa.Text(), comment="of the last attempt, where it failed"),
        sa.PrimaryKeyConstraint("alert_id", "channel", name="pk_alert_delivery"),
        sa.ForeignKeyConstraint(
            ["alert_id"], ["alert.alert_id"], name="fk_alert_delivery_alert_id", ondelete="CASCADE"
        ),
        comment="how far an alert has been told on a channel",
    )
    op.create_index(
        "ix_alert_delivery_due", "alert_delivery", ["channel"], postgresql_where=sa.text("due_at IS NOT NULL")
    )


def downgrade() -> None:
    op.drop_table("alert_delivery")
    op.drop_table("alert")
