"""Who imported which history and when; each imported snapshot says by which import."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import TIMESTAMP

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_UTC = TIMESTAMP(timezone=True)
_COUNTS = {
    "rows": "of the file, done so far",
    "inserted": "new days",
    "updated": "of days that had other numbers",
    "unchanged": "of days that had these numbers",
    "outranked": "of days a platform was asked on",
    "rejected": None,
    "rejects_bytes": "of the file of rejects, so far",
}


def upgrade() -> None:
    op.create_table(
        "history_import",
        sa.Column("import_id", sa.Integer(), sa.Identity(always=True)),
        sa.Column("file_name", sa.Text(), nullable=False, comment="without its folder; - for standard input"),
        sa.Column("sha256", sa.Text(), comment="of the file as it was given; null: it came by a stream"),
        sa.Column("size_bytes", sa.BigInteger(), comment="null: it came by a stream"),
        sa.Column("imported_by", sa.Text(), nullable=False),
        sa.Column("overwrite", sa.Boolean(), nullable=False, comment="readings of platforms gave way"),
        sa.Column("started_at", _UTC, nullable=False),
        sa.Column("finished_at", _UTC, comment="null: under way, or interrupted"),
        *(
            sa.Column(name, sa.BigInteger(), nullable=False, server_default="0", comment=comment)
            for name, comment in _COUNTS.items()
        ),
        sa.PrimaryKeyConstraint("import_id", name="pk_history_import"),
        comment="who imported which history and when, and how far it came",
    )
    op.add_column(
        "fact_followers_snapshot",
        sa.Column(
            "import_id",
            sa.Integer(),
            comment="which import brought it (history_import); null: a platform said it",
        ),
    )


def downgrade() -> None:
    op.drop_column("fact_followers_snapshot", "import_id")
    op.drop_table("history_import")
