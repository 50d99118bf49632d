"""Rule: what it matches, what it does, and its place among the others of its set."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Annotated

from pydantic import AfterValidator, Field, StringConstraints

from vswitch.kinds import terms
from vswitch.kinds.action import Action, JumpAction, MirrorAction, PoliceAction, RedirectAction
from vswitch.kinds.match import Match
from vswitch.kinds.resource import Condition, Key, Output, Spec

RULE_ID_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,30}$"
RuleId = Annotated[
    str,
    StringConstraints(pattern=RULE_ID_PATTERN),
    Field(
        description="Chosen by the user, unique in its set and never changed. May begin with a "
        "digit.",
        examples=["no-http"],
    ),
]
Reference = tuple[tuple[str | int, ...], Key, str]
"""Where in the spec, the object it names, and of a group the type that is needed there."""


def _moment(text: str) -> str:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise ValueError("a time of RFC 3339 with its zone, as 2030-01-31T12:00:00Z")
    return moment.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


Moment = Annotated[
    str,
    StringConstraints(max_length=40),
    AfterValidator(_moment),
    Field(json_schema_extra={"format": "date-time"}, examples=["2030-01-31T12:00:00Z"]),
]


class RuleSpec(Spec):
    priority: Annotated[int, Field(ge=-(2**31), le=2**31 - 1)] = Field(
        1000,
        description="Rules are asked in ascending order; among equal ones in the order of their "
        "ids' bytes.",
    )
    match: Match = Field(default_factory=Match)
    action: Action
    enabled: bool = True
    log: bool = Field(False, description="Log the frames that match, besides the action.")
    expires_at: Moment | None = Field(
        None, description="From then on the rule matches nothing; it stays in the set."
    )
    comment: Annotated[str, StringConstraints(max_length=256)] = ""

    @property
    def expires(self) -> int:
        """Unix time; 0: never."""
        if self.expires_at is None:
            return 0
        return max(1, int(datetime.fromisoformat(self.expires_at).timestamp()))

    def references(self) -> Iterator[Reference]:
        """Everything the rule names."""
        match, action = self.match, self.action
        if match.in_port is not None:
            yield ("match", "in_port"), Key("port", match.in_port), ""
        yield from _groups(match)
        place = ("action",)
        if isinstance(action, RedirectAction | MirrorAction):
            yield (*place, "port"), Key("port", action.port), ""
        elif isinstance(action, PoliceAction):
            yield (*place, "policer"), Key("policer", action.policer), ""
        elif isinstance(action, JumpAction):
            yield (*place, "ruleset"), Key("ruleset", action.ruleset), ""


_ADDRESSES = (
    ("ip", ("src", "dst"), "ip"),
    ("eth", ("src", "dst"), "mac"),
    ("arp", ("spa", "tpa"), "ip"),
    ("arp", ("sha", "tha"), "mac"),
)
"""Part of the match, its fields, and what kind of group each may name."""


def _groups(match: Match) -> Iterator[Reference]:
    """Called several times for each of thousands of rules, most of which name none."""
    for part, names, kind in _ADDRESSES:
        said = getattr(match, part)
        if said is None:
            continue
        for name in names:
            text = getattr(said, name)
            if text is not None and (group := terms.group_of(text)):
                yield ("match", part, name), Key("group", group), kind
    if match.l4 is not None:
        for name, texts in (("sport", match.l4.sport), ("dport", match.l4.dport)):
            for index, text in enumerate(texts or ()):
                if group := terms.group_of(text):
                    yield ("match", "l4", name, index), Key("group", group), "port"


class RuleEntry(RuleSpec):
    """A rule inside its set."""

    id: RuleId


class RuleError(Output):
    code: str
    pointer: str = Field(description="Into the rule: /match/ip/src; may be empty.")
    message: str
    hint: str


class RuleStatus(Output):
    conditions: list[Condition]
    observed_generation: int = Field(description="The generation that is in force.")
    last_error: RuleError | None = Field(description="Why the fast path refused the rule.")
