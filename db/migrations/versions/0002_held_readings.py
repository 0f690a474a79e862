"""Suspicious readings are held: an account's newest numbers say so until a second reading confirms or refutes them."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "account_latest",
        sa.Column(
            "held_followers",
            sa.BigInteger(),
            comment="of a later, suspicious reading that awaits a second one",
        ),
    )
    op.add_column(
        "account_latest",
        sa.Column(
            "held_at",
            postgresql.TIMESTAMP(timezone=True),
            comment="when that one was captured; null where none waits",
        ),
    )
    op.add_column(
        "account_latest",
        sa.Column("held_precision", sa.Text(), comment="what its snapshot gets back once it is confirmed"),
    )
    op.create_check_constraint(
        op.f("ck_account_latest_held"),
        "account_latest",
        "num_nonnulls(held_followers, held_at, held_precision) IN (0, 3)",
    )
    op.create_table_comment(
        "account_latest", "the newest accepted snapshot of each account, kept in the same transaction"
    )
    op.create_table_comment(
        "fact_followers_snapshot",
        "one row per account and UTC day: the day's last good reading, else its last held one",
    )


def downgrade() -> None:
    # Without the mark beside the newest numbers nothing could settle a held snapshot any more.
    op.drop_column("account_latest", "held_precision")
    op.drop_column("account_latest", "held_at")
    op.drop_column("account_latest", "held_followers")
    op.create_table_comment("account_latest", "the newest snapshot of each account, kept in the same transaction")
    op.create_table_comment("fact_followers_snapshot", "one row per account and UTC day: the day's last good reading")
