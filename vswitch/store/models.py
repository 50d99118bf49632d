"""Tables. What refers to what is a foreign key; an object's spec is JSON of its kind's Spec.

Rows never leave this package.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, ForeignKey, Index, String, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    pass


def _deferred(column: str) -> ForeignKey:
    """Checked when the transaction ends, so that its order does not matter."""
    return ForeignKey(column, deferrable=True, initially="DEFERRED")


class ObjectRow:
    """Columns of every resource. Times are RFC 3339 text in UTC."""

    id: Mapped[int] = mapped_column(primary_key=True)
    uid: Mapped[str] = mapped_column(String(36), unique=True)
    labels: Mapped[dict[str, str]] = mapped_column(JSON)
    description: Mapped[str]
    generation: Mapped[int]
    revision: Mapped[int]
    spec: Mapped[dict[str, Any]] = mapped_column(JSON)
    created_at: Mapped[str]
    updated_at: Mapped[str]


class BridgeRow(ObjectRow, Base):
    __tablename__ = "bridges"
    name: Mapped[str] = mapped_column(unique=True)


class PortRow(ObjectRow, Base):
    __tablename__ = "ports"
    name: Mapped[str] = mapped_column(unique=True)
    bridge_id: Mapped[int | None] = mapped_column(ForeignKey("bridges.id"), index=True)


class FdbRow(ObjectRow, Base):
    __tablename__ = "fdb_entries"
    __table_args__ = (UniqueConstraint("bridge_id", "mac"),)
    bridge_id: Mapped[int] = mapped_column(ForeignKey("bridges.id"))
    mac: Mapped[str]
    port_id: Mapped[int] = mapped_column(ForeignKey("ports.id"), index=True)


class GroupRow(ObjectRow, Base):
    __tablename__ = "groups"
    name: Mapped[str] = mapped_column(unique=True)


class PolicerRow(ObjectRow, Base):
    __tablename__ = "policers"
    name: Mapped[str] = mapped_column(unique=True)


class RuleSetRow(ObjectRow, Base):
    __tablename__ = "rulesets"
    name: Mapped[str] = mapped_column(unique=True)


class AttachmentRow(Base):
    """One of the places in a set's ``spec``. Checked when the transaction ends: what is attached
    to may go in the one that takes the attachment away."""

    __tablename__ = "attachments"
    id: Mapped[int] = mapped_column(primary_key=True)
    ruleset_id: Mapped[int] = mapped_column(_deferred("rulesets.id"), index=True)
    bridge_id: Mapped[int | None] = mapped_column(_deferred("bridges.id"), index=True)
    port_id: Mapped[int | None] = mapped_column(_deferred("ports.id"), index=True)


class RuleRow(ObjectRow, Base):
    """What a rule's ``spec`` names, as far as it names one at most: its groups are rows."""

    __tablename__ = "rules"
    __table_args__ = (UniqueConstraint("ruleset_id", "name"),)
    ruleset_id: Mapped[int] = mapped_column(_deferred("rulesets.id"))
    name: Mapped[str]
    in_port_id: Mapped[int | None] = mapped_column(_deferred("ports.id"), index=True)
    port_id: Mapped[int | None] = mapped_column(_deferred("ports.id"), index=True)
    policer_id: Mapped[int | None] = mapped_column(_deferred("policers.id"), index=True)
    jump_id: Mapped[int | None] = mapped_column(_deferred("rulesets.id"), index=True)


class RuleGroupRow(Base):
    __tablename__ = "rule_groups"
    rule_id: Mapped[int] = mapped_column(
        ForeignKey("rules.id", ondelete="CASCADE"), primary_key=True
    )
    group_id: Mapped[int] = mapped_column(_deferred("groups.id"), primary_key=True, index=True)


class RevisionRow(Base):
    """``diff``: [{"object", "before", "after"}] of what the revision changed."""

    __tablename__ = "revisions"
    number: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[str]
    actor: Mapped[str]
    diff: Mapped[list[dict[str, Any]]] = mapped_column(JSON)


class AuditRow(Base):
    __tablename__ = "audit"
    __table_args__ = (Index("audit_revision", "revision"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[str]
    actor: Mapped[str]
    action: Mapped[str]
    object: Mapped[str]
    request_id: Mapped[str]
    revision: Mapped[int | None]


class TokenRow(Base):
    """``hash``: hex SHA-256 of a random token of 256 bits, which needs no slow hash."""

    __tablename__ = "tokens"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    hash: Mapped[str] = mapped_column(unique=True)
    role: Mapped[str]
    created_at: Mapped[str]


def stamp(moment: datetime) -> str:
    return moment.isoformat(timespec="microseconds")
