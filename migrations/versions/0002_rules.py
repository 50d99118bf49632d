"""Rule sets, their attachments and rules; groups and policers."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
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


def _reference(name: str, target: str, **options: bool) -> sa.Column:
    """Checked when the transaction ends."""
    key = sa.ForeignKey(f"{target}.id", deferrable=True, initially="DEFERRED")
    return sa.Column(name, sa.Integer, key, **options)


def upgrade() -> None:
    for table in ("groups", "policers", "rulesets"):
        op.create_table(
            table, *_object_columns(), sa.Column("name", sa.String, nullable=False, unique=True)
        )
    op.create_table(
        "attachments",
        sa.Column("id", sa.Integer, primary_key=True),
        _reference("ruleset_id", "rulesets", nullable=False, index=True),
        _reference("bridge_id", "bridges", index=True),
        _reference("port_id", "ports", index=True),
    )
    op.create_table(
        "rules",
        *_object_columns(),
        _reference("ruleset_id", "rulesets", nullable=False),
        sa.Column("name", sa.String, nullable=False),
        _reference("in_port_id", "ports", index=True),
        _reference("port_id", "ports", index=True),
        _reference("policer_id", "policers", index=True),
        _reference("jump_id", "rulesets", index=True),
        sa.UniqueConstraint("ruleset_id", "name"),
    )
    op.create_table(
        "rule_groups",
        sa.Column(
            "rule_id", sa.Integer, sa.ForeignKey("rules.id", ondelete="CASCADE"), primary_key=True
        ),
        sa.Column(
            "group_id",
            sa.Integer,
            sa.ForeignKey("groups.id", deferrable=True, initially="DEFERRED"),
            primary_key=True,
            index=True,
        ),
    )


def downgrade() -> None:
    for table in ("rule_groups", "rules", "attachments", "rulesets", "policers", "groups"):
        op.drop_table(table)
