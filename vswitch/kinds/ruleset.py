"""RuleSet: rules in their order, what becomes of the rest, and where the set is asked."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from vswitch.kinds.resource import Condition, Key, Output, Partial, Spec, fault_at
from vswitch.kinds.rule import RuleEntry, RuleError, RuleSpec
from vswitch.values import Name

ATTACH_MAX = 512


class Attach(Partial):
    """One place where the set is asked: all ports of a bridge, or one port."""

    bridge: Name | None = None
    port: Name | None = None
    direction: Literal["ingress", "egress"]
    order: Annotated[int, Field(ge=-(2**31), le=2**31 - 1)] = Field(
        100,
        description="Several sets at one place are asked in ascending order; among equal ones a "
        "bridge's before a port's, then by name.",
    )

    @model_validator(mode="after")
    def _one_place(self) -> Attach:
        if (self.bridge is None) == (self.port is None):
            raise ValueError("name exactly one of bridge and port")
        return self

    @property
    def target(self) -> Key:
        if self.bridge is not None:
            return Key("bridge", self.bridge)
        assert self.port is not None
        return Key("port", self.port)


class RuleSetHead(Spec):
    """A set without its rules, which are objects of their own."""

    default: Literal["allow", "drop"] = Field(
        "allow", description="What becomes of frames that no rule decided about."
    )
    attach: Annotated[tuple[Attach, ...], Field(strict=False, max_length=ATTACH_MAX)] = Field(
        (), description="Where it is asked; nowhere: only by a jump."
    )

    @model_validator(mode="after")
    def _distinct_places(self) -> RuleSetHead:
        seen: set[tuple[Key, str]] = set()
        for index, attach in enumerate(self.attach):
            place = (attach.target, attach.direction)
            if place in seen:
                text = f"{attach.target.path}, {attach.direction}, is named twice"
                raise fault_at(("attach", index), text)
            seen.add(place)
        return self


class RuleSetSpec(RuleSetHead):
    rules: Annotated[tuple[RuleEntry, ...], Field(strict=False)] = Field(
        (), description="All rules of the set: what is not among them goes."
    )

    @model_validator(mode="after")
    def _distinct_rules(self) -> RuleSetSpec:
        seen: set[str] = set()
        for index, entry in enumerate(self.rules):
            if entry.id in seen:
                raise fault_at(("rules", index, "id"), f"there are two rules {entry.id}")
            seen.add(entry.id)
        return self

    def head(self) -> RuleSetHead:
        return RuleSetHead(default=self.default, attach=self.attach)


def spec_of(entry: RuleEntry) -> RuleSpec:
    """What is kept of an entry: its id is the rule's name."""
    return RuleSpec.model_construct(
        **{name: value for name, value in entry.__dict__.items() if name != "id"}
    )


class Compiled(Output):
    """The form that frames meet."""

    rules: int
    matches: int = Field(description="Alternatives that lists and groups were expanded to.")
    tables: int
    bytes: int


class FailedRule(RuleError):
    id: str


class RuleSetStatus(Output):
    conditions: list[Condition]
    observed_generation: int = Field(description="The generation that is in force.")
    rules: int = Field(description="Rules of the set, disabled and expired ones included.")
    compiled: Compiled
    failed: list[FailedRule] = Field(
        description="Rules that the fast path refused: it goes on with what it had."
    )
