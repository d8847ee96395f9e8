"""The first tables of the run store.

Revision ID: 0001
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create every table of version 0.1."""
    op.create_table(
        "parties",
        sa.Column("name", sa.String(31), primary_key=True),
        sa.Column("public_key", sa.LargeBinary(), nullable=False, unique=True),
        sa.Column("supernode_public_key", sa.String(512), nullable=False, unique=True),
        sa.Column("enrolled_at", sa.DateTime(), nullable=False),
    )
    op.create_table(
        "invitations",
        sa.Column("token_hash", sa.String(64), primary_key=True),
        sa.Column("party", sa.String(31), nullable=False),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.Column("expires_at", sa.DateTime(), nullable=False),
        sa.Column("used_at", sa.DateTime()),
    )
    op.create_table(
        "api_tokens",
        sa.Column("token_hash", sa.String(64), primary_key=True),
        sa.Column("name", sa.String(63), nullable=False),
        sa.Column("role", sa.String(31), nullable=False),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.Column("revoked_at", sa.DateTime()),
    )
    op.create_table(
        "requesters",
        sa.Column("name", sa.String(63), primary_key=True),
        sa.Column("public_key", sa.LargeBinary(), nullable=False, unique=True),
        sa.Column("added_at", sa.DateTime(), nullable=False),
    )
    op.create_table(
        "runs",
        sa.Column("run_id", sa.String(63), primary_key=True),
        sa.Column("plan_name", sa.String(63), nullable=False),
        sa.Column("plan_source", sa.LargeBinary(), nullable=False),
        sa.Column("plan_digest", sa.String(64), nullable=False),
        sa.Column("requester_public", sa.LargeBinary(), nullable=False),
        sa.Column("requester_signature", sa.LargeBinary(), nullable=False),
        sa.Column("state", sa.String(15), nullable=False),
        sa.Column("active_slot", sa.Integer(), unique=True),
        sa.Column("stop_requested", sa.Boolean(), nullable=False),
        sa.Column("phase", sa.String(31)),
        sa.Column("round", sa.Integer()),
        sa.Column("total_rounds", sa.Integer()),
        sa.Column("flower_run_id", sa.String(63)),
        sa.Column("error", sa.String(63)),
        sa.Column("exit_code", sa.Integer()),
        sa.Column("message", sa.Text()),
        sa.Column("outcome", sa.Text()),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.Column("started_at", sa.DateTime()),
        sa.Column("ended_at", sa.DateTime()),
    )
    op.create_table(
        "run_members",
        sa.Column("run_id", sa.String(63), sa.ForeignKey("runs.run_id"), primary_key=True),
        sa.Column("party", sa.String(31), primary_key=True),
        sa.Column("public_key", sa.LargeBinary(), nullable=False),
    )
    op.create_table(
        "phases",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column(
            "run_id", sa.String(63), sa.ForeignKey("runs.run_id"), nullable=False, index=True
        ),
        sa.Column("phase", sa.String(31), nullable=False),
        sa.Column("round", sa.Integer()),
        sa.Column("started_at", sa.DateTime(), nullable=False),
    )
    op.create_table(
        "exchanges",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column(
            "run_id", sa.String(63), sa.ForeignKey("runs.run_id"), nullable=False, index=True
        ),
        sa.Column("phase", sa.String(31), nullable=False),
        sa.Column("round", sa.Integer()),
        sa.Column("seconds", sa.Float(), nullable=False),
        sa.Column("ended_at", sa.DateTime(), nullable=False),
    )
    op.create_table(
        "exchange_bytes",
        sa.Column("exchange_id", sa.Integer(), sa.ForeignKey("exchanges.id"), primary_key=True),
        sa.Column("party", sa.String(31), primary_key=True),
        sa.Column("bytes_up", sa.BigInteger(), nullable=False),
        sa.Column("bytes_down", sa.BigInteger(), nullable=False),
    )
    op.create_table(
        "metrics",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column(
            "run_id", sa.String(63), sa.ForeignKey("runs.run_id"), nullable=False, index=True
        ),
        sa.Column("name", sa.String(63), nullable=False),
        sa.Column("value", sa.Float(), nullable=False),
        sa.Column("recorded_at", sa.DateTime(), nullable=False),
    )
