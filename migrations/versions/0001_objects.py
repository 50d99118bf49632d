"""Bridges, ports, static FDB entries; revisions, audit, tokens."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def _object_columns() -> list[sa.Column]:
    return [
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("uid", sa.String(36), nullable=False, unique=True),
        sa.Column("labels", sa.JSON, nullable=False),
        sa.Column("description", sa.String, nullable=False),
        sa.Column("generation", sa.Integer, nullable=False),
        sa.Column("revision", sa.Integer, nullable=False),
        sa.Column("spec", sa.JSON, nullable=False),
        sa.Column("created_at", sa.String, nullable=False),
        sa.Column("updated_at", sa.String, nullable=False),
    ]


def upgrade() -> None:
    op.create_table(
        "bridges", *_object_columns(), sa.Column("name", sa.String, nullable=False, unique=True)
    )
    op.create_table(
        "ports",
        *_object_columns(),
        sa.Column("name", sa.String, nullable=False, unique=True),
        sa.Column("bridge_id", sa.Integer, sa.ForeignKey("bridges.id"), index=True),
    )
    op.create_table(
        "fdb_entries",
        *_object_columns(),
        sa.Column("bridge_id", sa.Integer, sa.ForeignKey("bridges.id"), nullable=False),
        sa.Column("mac", sa.String, nullable=False),
        sa.Column("port_id", sa.Integer, sa.ForeignKey("ports.id"), nullable=False, index=True),
        sa.UniqueConstraint("bridge_id", "mac"),
    )
    op.create_table(
        "revisions",
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("at", sa.String, nullable=False),
        sa.Column("actor", sa.String, nullable=False),
        sa.Column("diff", sa.JSON, nullable=False),
    )
    op.create_table(
        "audit",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("at", sa.String, nullable=False),
        sa.Column("actor", sa.String, nullable=False),
        sa.Column("action", sa.String, nullable=False),
        sa.Column("object", sa.String, nullable=False),
        sa.Column("request_id", sa.String, nullable=False),
        sa.Column("revision", sa.Integer),
    )
    op.create_index("audit_revision", "audit", ["revision"])
    op.create_table(
        "tokens",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("name", sa.String, nullable=False, unique=True),
        sa.Column("hash", sa.String, nullable=False, unique=True),
        sa.Column("role", sa.String, nullable=False),
        sa.Column("created_at", sa.String, nullable=False),
    )


def downgrade() -> None:
    for table in ("tokens", "audit", "revisions", "fdb_entries", "ports", "bridges"):
        op.drop_table(table)
