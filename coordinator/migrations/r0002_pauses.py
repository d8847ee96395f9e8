"""A run may pause for parties that are away; who left and came back is kept.

Revision ID: 0002
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add what a paused run waits for, and the table of comings and goings."""
    op.add_column(
        "runs",
        sa.Column("resume_requested", sa.Boolean(), nullable=False, server_default=sa.false()),
    )
    op.add_column("runs", sa.Column("waiting_for", sa.Text()))
    op.add_column("runs", sa.Column("pause_until", sa.DateTime()))
    op.create_table(
        "membership",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column(
            "run_id", sa.String(63), sa.ForeignKey("runs.run_id"), nullable=False, index=True
        ),
        sa.Column("party", sa.String(31), nullable=False),
        sa.Column("event", sa.String(31), nullable=False),
        sa.Column("phase", sa.String(31), nullable=False),
        sa.Column("round", sa.Integer()),
        sa.Column("at", sa.DateTime(), nullable=False),
    )
