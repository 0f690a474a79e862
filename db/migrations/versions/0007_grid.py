"""The snapshots of a day are found by account.

Writers wait while the index is made: on a large database `rollcall db indexes --create` makes it beforehand, beside them.
"""

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_INDEX = "ix_fact_followers_snapshot_day"


def upgrade() -> None:
    op.create_index(_INDEX, "fact_followers_snapshot", ["snapshot_date", "account_key"], if_not_exists=True)


def downgrade() -> None:
    op.drop_index(_INDEX, "fact_followers_snapshot")
