"""The first tables of the profile store.

Revision ID: 0001
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create every table of version 0.1."""
    customer = sa.String(255).with_variant(
        mysql.VARCHAR(255, collation="utf8mb4_bin"), "mysql", "mariadb"
    )
    op.create_table(
        "publications",
        sa.Column("run_id", sa.String(63), primary_key=True),
        sa.Column("plan_digest", sa.String(64), nullable=False),
        sa.Column("model_digest", sa.String(64), nullable=False),
        sa.Column("parties", sa.JSON(), nullable=False),
        sa.Column("epsilon", sa.Float(53), nullable=False),
        sa.Column("delta", sa.Float(53), nullable=False),
        sa.Column("published_at", sa.DateTime(), nullable=False),
        sa.Column("as_of", sa.Date(), nullable=False),
        sa.Column("valid_until", sa.Date(), nullable=False),
        sa.Column("status", sa.String(15), nullable=False),
    )
    op.create_table(
        "tag_values",
        sa.Column("customer", customer, primary_key=True),
        sa.Column("tag", sa.String(63), primary_key=True),
        sa.Column("value", sa.String(63), nullable=False),
        sa.Column("score", sa.Float(53), nullable=False),
        sa.Column("run_id", sa.String(63), sa.ForeignKey("publications.run_id"), nullable=False),
        sa.Column("valid_until", sa.Date(), nullable=False),
    )
    op.create_table(
        "tag_history",
        sa.Column(
            "id",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            primary_key=True,
            autoincrement=True,
        ),
        sa.Column("customer", customer, nullable=False),
        sa.Column("tag", sa.String(63), nullable=False),
        sa.Column("value", sa.String(63), nullable=False),
        sa.Column("score", sa.Float(53), nullable=False),
        sa.Column("run_id", sa.String(63), sa.ForeignKey("publications.run_id"), nullable=False),
        sa.Column("valid_until", sa.Date(), nullable=False),
        sa.Column(
            "replaced_by", sa.String(63), sa.ForeignKey("publications.run_id"), nullable=False
        ),
    )
    op.create_index("ix_tag_history_customer", "tag_history", ["customer"])
