"""Signed-in browsers."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import TIMESTAMP

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

_UTC = TIMESTAMP(timezone=True)


def upgrade() -> None:
    op.create_table(
        "sign_in",
        sa.Column("token_hash", sa.LargeBinary(), comment="SHA-256 of what the cookie holds (256 random bits)"),
        sa.Column("key_id", sa.Text(), nullable=False),
        sa.Column("began_at", _UTC, nullable=False),
        sa.Column("ends_at", _UTC, nullable=False),
        sa.PrimaryKeyConstraint("token_hash", name="pk_sign_in"),
        sa.ForeignKeyConstraint(["key_id"], ["api_key.key_id"], name="fk_sign_in_key_id", ondelete="CASCADE"),
        comment="browsers that are signed in by a key; the key itself isn't here",
    )


def downgrade() -> None:
    op.drop_table("sign_in")
