"""What the people of the coordinator are warned of.

Revision ID: 0007
"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the table of alerts."""
    op.create_table(
        "alerts",
        sa.Column("number", sa.Integer(), primary_key=True),
        sa.Column("kind", sa.String(31), nullable=False),
        sa.Column("subject", sa.String(127), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("open_key", sa.String(159), unique=True),
        sa.Column("raised_at", sa.DateTime(), nullable=False),
        sa.Column("resolved_at", sa.DateTime()),
        sa.Column("told", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("attempts", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("next_attempt_at", sa.DateTime()),
    )
    op.create_index("ix_alerts_told", "alerts", ["told"])
