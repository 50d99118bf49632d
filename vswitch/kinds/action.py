"""What a rule does with a frame that it matches.

Final: allow, drop, reject, redirect. Behind the others the search goes on with the next rule;
police drops what exceeds the rate, and that is final.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator
from typing_extensions import TypeAliasType

from vswitch.kinds.resource import Partial, Spec
from vswitch.kinds.terms import MAC_ONLY_PATTERN
from vswitch.values import MAC_PATTERN, VID_MAX, Name

StationMac = Annotated[
    str,
    StringConstraints(pattern=MAC_PATTERN, to_lower=True),
    Field(examples=["02:00:00:00:00:01"]),
]
AnyMac = Annotated[
    str,
    StringConstraints(pattern=MAC_ONLY_PATTERN, to_lower=True),
    Field(examples=["02:00:00:00:00:01"]),
]


class AllowAction(Spec):
    """Decided for this set: the next set at this stage is asked."""

    type: Literal["allow"]


class DropAction(Spec):
    """Gone, without a word."""

    type: Literal["drop"]


class RejectAction(Spec):
    """Dropped, and the sender is told: TCP by a reset, other IP by ICMP or ICMPv6 unreachable."""

    type: Literal["reject"]


class RedirectAction(Spec):
    """Straight to a port of the same bridge; its egress rules and VLANs apply."""

    type: Literal["redirect"]
    port: Name


class MirrorAction(Spec):
    """A copy of the frame as it came, to a port; no rules apply to it there."""

    type: Literal["mirror"]
    port: Name
    snaplen: Annotated[int, Field(ge=0, le=65_535)] = Field(
        0, description="Bytes of each copy; 0: whole frames."
    )


class PoliceAction(Spec):
    """Drops what is beyond the policer's rate; behind the rest the search goes on."""

    type: Literal["police"]
    policer: Name


class SetAction(Partial):
    """Fields that the frame has behind this stage; checksums are kept right."""

    type: Literal["set"]
    vlan: Annotated[int, Field(ge=0, le=VID_MAX)] | None = Field(
        None,
        description="VLAN id. In a bridge that filters no VLANs that of the tag; 0: without a tag.",
    )
    pcp: Annotated[int, Field(ge=0, le=7)] | None = None
    dscp: Annotated[int, Field(ge=0, le=63)] | None = None
    eth_src: StationMac | None = None
    eth_dst: AnyMac | None = None

    @model_validator(mode="after")
    def _sets_something(self) -> SetAction:
        if all(getattr(self, name) is None for name in type(self).model_fields if name != "type"):
            raise ValueError("name a field to set: vlan, pcp, dscp, eth_src, eth_dst")
        return self


class LogAction(Spec):
    """A record in the set's log; the search goes on."""

    type: Literal["log"]


class JumpAction(Spec):
    """The rules of another set, whose default does not count; then the search goes on."""

    type: Literal["jump"]
    ruleset: Name


Action = TypeAliasType(
    "Action",
    Annotated[
        AllowAction
        | DropAction
        | RejectAction
        | RedirectAction
        | MirrorAction
        | PoliceAction
        | SetAction
        | LogAction
        | JumpAction,
        Field(discriminator="type"),
    ],
)
ACTIONS: tuple[str, ...] = (
    "allow",
    "drop",
    "reject",
    "redirect",
    "mirror",
    "police",
    "set",
    "log",
    "jump",
)
