"""The ranges of days without a reading that touch the last days, of all accounts.

Writers wait while the index is made: on a large database `rollcall db indexes --create` makes it beforehand.
"""

from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("ix_account_gap_to_date", "account_gap", ["to_date"], if_not_exists=True)


def downgrade() -> None:
    op.drop_index("ix_account_gap_to_date", "account_gap")
