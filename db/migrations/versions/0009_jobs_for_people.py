"""The newest jobs of a platform, and those that are rare: by state, lane and kind.

Writers wait while the indexes are made: on a large database `rollcall db indexes --create` makes them beforehand.
"""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

_WHERE = {"platform": None, "state": "state <> 'succeeded'", "lane": "lane <> 'core'", "kind": "kind <> 'profiles'"}


def upgrade() -> None:
    for column, where in _WHERE.items():
        op.create_index(
            f"ix_scrape_job_{column}_created_at",
            "scrape_job",
            [column, "created_at"],
            postgresql_where=None if where is None else sa.text(where),
            if_not_exists=True,
        )


def downgrade() -> None:
    for column in _WHERE:
        op.drop_index(f"ix_scrape_job_{column}_created_at", "scrape_job")
