"""Import of `filterrule` tables: the struct of a packet filter over netmap, field by field.

    dir       0: in (from the network), 1: out
    proto     IP protocol, -1: any
    srcaddr & srcmask, dstaddr & dstmask    compared under their masks
    srcport, dstport                        -1: any; looked at for TCP and UDP only

A packet of IPv4 that fits a rule is blocked, everything else passes. What is not TCP or UDP fits
whatever its ports, so a rule that has ports and no protocol becomes two.

A table is for both directions of one interface, a rule set is asked at one: a table that has
both becomes two sets, NAME-in and NAME-out, else it is the set NAME. Pure.
"""

from __future__ import annotations

from ipaddress import IPv4Address
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from vswitch.kinds import terms
from vswitch.kinds.action import DropAction
from vswitch.kinds.match import IpMatch, L4Match, Match
from vswitch.kinds.resource import Input, Output, fault_at
from vswitch.kinds.rule import RuleEntry
from vswitch.kinds.ruleset import Attach
from vswitch.values import Name

DIRECTIONS = ("in", "out")
_ATTACHED: dict[str, Literal["ingress", "egress"]] = {"in": "ingress", "out": "egress"}
_TCP, _UDP = 6, 17
_OTHERS = ("0-5", "7-16", "18-255")
ANY = -1


def _ipv4(text: str) -> str:
    return str(IPv4Address(text))


Ipv4 = Annotated[
    str,
    StringConstraints(pattern=r"^[0-9.]{7,15}$"),
    AfterValidator(_ipv4),
    Field(examples=["10.0.0.0", "255.0.0.0"]),
]
PortOrAny = Annotated[int, Field(ge=ANY, le=65_535, description="-1: any.")]


class FilterRule(Input):
    """One element of the table."""

    dir: Annotated[int, Field(ge=0, le=1, description="0: in, 1: out.")]
    proto: Annotated[int, Field(ge=ANY, le=255, description="-1: any.")] = ANY
    srcaddr: Ipv4 = "0.0.0.0"
    srcmask: Ipv4 = "0.0.0.0"
    dstaddr: Ipv4 = "0.0.0.0"
    dstmask: Ipv4 = "0.0.0.0"
    srcport: PortOrAny = ANY
    dstport: PortOrAny = ANY

    @model_validator(mode="after")
    def _masks_given(self) -> FilterRule:
        """An address without its mask would match everything."""
        for side in ("src", "dst"):
            given = self.model_fields_set
            if f"{side}addr" in given and f"{side}mask" not in given:
                raise fault_at((f"{side}mask",), f"{side}addr needs its mask")
        return self


class ImportPlace(Input):
    """Where the sets are asked: those of `in` at its ingress, those of `out` at its egress."""

    bridge: Name | None = None
    port: Name | None = None
    order: Annotated[int, Field(ge=-(2**31), le=2**31 - 1)] = 100

    @model_validator(mode="after")
    def _one_place(self) -> ImportPlace:
        if (self.bridge is None) == (self.port is None):
            raise ValueError("name exactly one of bridge and port")
        return self


class ImportRequest(Input):
    """Replaces what was imported under this name before."""

    format: Literal["filterrule"]
    rules: Annotated[tuple[FilterRule, ...], Field(strict=False)]
    attach: Annotated[tuple[ImportPlace, ...], Field(strict=False, max_length=256)] | None = Field(
        None, description="null: sets that are there stay where they are."
    )


class ImportedSet(Output):
    name: str
    direction: str = Field(description="in or out")
    rules: int


class ImportResult(Output):
    items: list[ImportedSet]


def names_of(name: str, rules: tuple[FilterRule, ...]) -> dict[str, str]:
    """Direction -> the set that holds its rules. ValueError: the name is too long for two."""
    found = [word for number, word in enumerate(DIRECTIONS) if any(r.dir == number for r in rules)]
    if len(found) < 2:
        return {found[0] if found else "in": name}
    longest = f"{name}-{DIRECTIONS[1]}"
    if len(longest) > 31:
        raise ValueError(f"a table for both directions makes sets like {longest}: too long a name")
    return {word: f"{name}-{word}" for word in DIRECTIONS}


def places(request: ImportRequest, direction: str) -> tuple[Attach, ...] | None:
    if request.attach is None:
        return None
    return tuple(
        Attach(bridge=one.bridge, port=one.port, order=one.order, direction=_ATTACHED[direction])
        for one in request.attach
    )


def entries(rules: tuple[FilterRule, ...], direction: str) -> list[tuple[int, RuleEntry]]:
    """The rules of one direction, each with its index in the table: id and priority say it."""
    number = DIRECTIONS.index(direction)
    return [
        (index, entry)
        for index, rule in enumerate(rules)
        if rule.dir == number
        for entry in _entries(index, rule)
    ]


def _entries(index: int, rule: FilterRule) -> list[RuleEntry]:
    ip: dict[str, Any] = {"version": 4}
    for side in ("src", "dst"):
        mask = terms.ip_mask(f"{getattr(rule, side + 'addr')}/{getattr(rule, side + 'mask')}")
        if any(mask[1]):
            ip[side] = terms.ip_text(mask)
    if rule.proto != ANY:
        ip["proto"] = rule.proto
    l4: dict[str, Any] = {
        field: (str(port),)
        for field, port in (("sport", rule.srcport), ("dport", rule.dstport))
        if port != ANY
    }
    if not l4 or rule.proto not in (ANY, _TCP, _UDP):
        return [_entry(str(index), index, Match(ip=IpMatch(**ip)))]
    found = [_entry(str(index), index, Match(ip=IpMatch(**ip), l4=L4Match(**l4)))]
    if rule.proto == ANY:
        others = Match(ip=IpMatch(**ip, proto=_OTHERS))
        found.append(_entry(f"{index}-other", index, others))
    return found


def _entry(id: str, priority: int, match: Match) -> RuleEntry:
    return RuleEntry(id=id, priority=priority, match=match, action=DropAction(type="drop"))
