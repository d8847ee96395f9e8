"""What parties tell about themselves.

Revision ID: 0005
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add each party's newest disclosure, its budget over time, and contradictions."""
    op.create_table(
        "disclosures",
        sa.Column("party", sa.String(31), primary_key=True),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("received_at", sa.DateTime(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("signed_at", sa.BigInteger(), nullable=False),
        sa.Column("signature", sa.LargeBinary(), nullable=False),
        sa.Column("ledger_position", sa.BigInteger()),
        sa.Column("ledger_hash", sa.String(64)),
        sa.Column("ledger_request", sa.Text()),
    )
    op.create_table(
        "disclosed_budgets",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("party", sa.String(31), nullable=False, index=True),
        sa.Column("at", sa.DateTime(), nullable=False),
        sa.Column("epsilon", sa.Float(), nullable=False),
        sa.Column("delta", sa.Float(), nullable=False),
        sa.Column("spent", sa.Float(), nullable=False),
        sa.Column("used", sa.Float(), nullable=False),
    )
    op.create_table(
        "contradictions",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("party", sa.String(31), nullable=False, index=True),
        sa.Column("kind", sa.String(31), nullable=False),
        sa.Column("at", sa.DateTime(), nullable=False),
        sa.Column("what", sa.Text(), nullable=False),
        sa.Column("earlier_hash", sa.String(64), nullable=False),
        sa.Column("earlier", sa.Text(), nullable=False),
        sa.Column("later", sa.Text(), nullable=False),
    )
