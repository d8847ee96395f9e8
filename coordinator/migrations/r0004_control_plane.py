"""What the control plane's API keeps of requests and people; parties can be removed.

Revision ID: 0004
"""

import re
from datetime import timedelta

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add removal, the order in which runs are listed, and answers to repeated requests."""
    op.add_column("parties", sa.Column("removed_at", sa.DateTime()))
    op.create_index("ix_runs_newest", "runs", ["created_at", "run_id"])
    op.create_table(
        "idempotency",
        sa.Column("key_hash", sa.String(64), primary_key=True),
        sa.Column("request_hash", sa.String(64), nullable=False),
        sa.Column("created_at", sa.DateTime(), nullable=False, index=True),
        sa.Column("status", sa.Integer()),
        sa.Column("answer", sa.LargeBinary()),
    )
    _add_people()


def _add_people() -> None:
    """People, tokens, sessions and what failed lately, as privacy.hosting keeps them. Tokens of
    before go on opening what they opened; they had no end, and get one in ten years."""
    op.create_table(
        "people",
        sa.Column("name", sa.String(63), primary_key=True),
        sa.Column("role", sa.String(63), nullable=False),
        sa.Column("state", sa.String(15), nullable=False),
        sa.Column("password_hash", sa.String(255)),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.Column("identity", sa.String(64)),
    )
    op.create_index("ix_people_identity", "people", ["identity"], unique=True)
    tokens = op.create_table(
        "tokens",
        sa.Column("token_hash", sa.String(64), primary_key=True),
        sa.Column("name", sa.String(63), nullable=False, unique=True),
        sa.Column("role", sa.String(63), nullable=False),
        sa.Column("created_by", sa.String(63), nullable=False),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.Column("expires_at", sa.DateTime(), nullable=False),
        sa.Column("revoked_at", sa.DateTime()),
        sa.Column("last_used", sa.Date()),
    )
    op.create_table(
        "sessions",
        sa.Column("session_hash", sa.String(64), primary_key=True),
        sa.Column("person", sa.String(63), nullable=False, index=True),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.Column("seen_at", sa.DateTime(), nullable=False),
    )
    op.create_table(
        "failures",
        sa.Column("subject", sa.String(64), primary_key=True),
        sa.Column("failed", sa.Integer(), nullable=False),
        sa.Column("since", sa.DateTime(), nullable=False),
    )
    before = sa.table(
        "api_tokens",
        *(sa.column(name) for name in ("token_hash", "name", "role")),
        *(sa.column(name, sa.DateTime()) for name in ("created_at", "revoked_at")),
    )
    taken: set[str] = set()
    for row in op.get_bind().execute(sa.select(before).order_by(before.c.created_at)).all():
        wanted = row.name if re.fullmatch(r"[a-z][a-z0-9._@-]{0,49}", row.name) else "token"
        name, number = wanted, 1
        while name in taken:
            number += 1
            name = f"{wanted}-{number}"
        taken.add(name)
        values = {**row._asdict(), "name": name, "created_by": "init"}
        values["expires_at"] = row.created_at + timedelta(days=3650)
        op.get_bind().execute(sa.insert(tokens).values(values))
    op.drop_table("api_tokens")
