"""Roles may name a party, and people may sign in at a provider.

Revision ID: 0002
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make room for longer roles, and for whom a provider calls a person."""
    for name in ("people", "tokens"):
        with op.batch_alter_table(name) as table:
            table.alter_column("role", type_=sa.String(63), existing_nullable=False)
    op.add_column("people", sa.Column("identity", sa.String(64)))
    op.create_index("ix_people_identity", "people", ["identity"], unique=True)
