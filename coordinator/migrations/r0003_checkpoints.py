"""What a run needs to go on after its ServerApp was killed.

Revision ID: 0003
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Attempts of a run, and what it has heard so far. A run that is active now has kept nothing:
    its attempt is 0, and it is not taken up again."""
    op.add_column("runs", sa.Column("attempt", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("runs", sa.Column("attempt_at", sa.DateTime()))
    op.add_column("runs", sa.Column("stalled", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("runs", sa.Column("recorded", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("runs", sa.Column("process", sa.String(255)))
    op.add_column("runs", sa.Column("interruption", sa.Text()))
    op.create_table(
        "checkpoints",
        sa.Column("run_id", sa.String(63), sa.ForeignKey("runs.run_id"), primary_key=True),
        sa.Column("number", sa.Integer(), primary_key=True),
        sa.Column("content", sa.LargeBinary(), nullable=False),
    )
    op.create_table(
        "checkpoint_attachments",
        sa.Column("run_id", sa.String(63), sa.ForeignKey("runs.run_id"), primary_key=True),
        sa.Column("sha256", sa.String(64), primary_key=True),
        sa.Column("content", sa.LargeBinary(), nullable=False),
    )
