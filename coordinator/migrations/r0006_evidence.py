"""What goes into a run's evidence pack: parties' signed statements, and which packs were made.

Revision ID: 0006
"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add both tables. Runs from before have no statements, and packs of them say so."""
    op.create_table(
        "evidence_statements",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("run_id", sa.String(63), sa.ForeignKey("runs.run_id"), nullable=False),
        sa.Column("party", sa.String(31), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("sequence", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(31), nullable=False),
        sa.Column("asked", sa.LargeBinary(), nullable=False),
        sa.Column("cohort", sa.Text(), nullable=False),
        sa.Column("statement", sa.LargeBinary(), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("bytes", sa.Integer(), nullable=False),
    )
    op.create_index(
        "one_statement",
        "evidence_statements",
        ["run_id", "party", "epoch", "sequence"],
        unique=True,
    )
    op.create_table(
        "evidence_packs",
        sa.Column("run_id", sa.String(63), sa.ForeignKey("runs.run_id"), primary_key=True),
        sa.Column("made_at", sa.DateTime(), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("bytes", sa.Integer(), nullable=False),
    )
