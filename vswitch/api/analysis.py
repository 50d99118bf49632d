"""Rules that never act as they stand, each shown by a frame."""

from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import Field

from vswitch.api.answers import Cursor, Limit, Served, bad_cursor, decode_cursor, encode_cursor
from vswitch.api.rulesets import RuleSetPath
from vswitch.kinds.resource import Output
from vswitch.services.analysis import Found, Position
from vswitch.values import AnalysisKind

MESSAGES = {
    "shadowed": "{by} comes first and takes every frame that {rule} matches.",
    "redundant": "{by} comes first, takes every frame that {rule} matches, and does the same.",
    "contradictory": "{by} has the same priority, matches frames that {rule} matches and does "
    "something else: only the order of the ids decides.",
    "never_hit": "No frame has met {rule} since it came into force.",
}
Kinds = Annotated[
    list[AnalysisKind] | None, Query(description="Only these kinds; nothing said: all.")
]


class Witness(Output):
    """A frame that both rules match and that `by` takes."""

    frame_hex: str
    in_port: str | None = Field(
        description="Where a trace of it comes to `by`; null: nowhere, the set alone was asked."
    )
    state: str | None = Field(description="Of the connection, for the trace; null: none.")
    verdict: str | None = Field(description="Of the trace from in_port.")
    reason: str | None = Field(description="Of the trace from in_port.")


class AnalysisFinding(Output):
    kind: str = Field(
        description="What is the matter.",
        json_schema_extra={"x-extensible-enum": list(MESSAGES)},
    )
    rule: str
    by: str | None = Field(description="The other rule; null where there is none.")
    message: str
    witness: Witness | None = Field(description="null: of never_hit.")


class AnalysisList(Output):
    """Findings in the order of the rules. A page may be short, or empty, and have a next one."""

    items: list[AnalysisFinding]
    skipped: int = Field(description="Rules with too many alternatives to be compared.")
    next_cursor: str | None = Field(description="Where the next page begins; null: the end.")


def analyse_ruleset(
    served: Served,
    ruleset: RuleSetPath,
    kind: Kinds = None,
    limit: Limit = 100,
    cursor: Cursor = None,
) -> Any:
    kinds = frozenset(kind) if kind else None
    page = served.runtime.analyse(ruleset, kinds, _position(cursor), limit)
    after = page.after
    return {
        "items": [_item(found) for found in page.items],
        "skipped": page.skipped,
        "next_cursor": encode_cursor(f"{after.rule}.{after.told}") if after else None,
    }


def _position(cursor: str | None) -> Position:
    text = decode_cursor(cursor)
    if not text:
        return Position()
    rule, _, told = text.partition(".")
    if not (rule.isdecimal() and told.isdecimal() and len(rule) < 10 and len(told) < 10):
        raise bad_cursor()
    return Position(int(rule), int(told))


def _item(found: Found) -> dict[str, Any]:
    finding, traced = found.finding, found.traced
    witness = {
        "frame_hex": finding.witness.hex(),
        "in_port": finding.in_port or None,
        "state": finding.state or None,
        "verdict": traced.verdict if traced else None,
        "reason": traced.reason if traced else None,
    }
    return {
        "kind": finding.kind,
        "rule": finding.rule,
        "by": finding.by or None,
        "message": MESSAGES[finding.kind].format(rule=finding.rule, by=finding.by),
        "witness": witness if finding.witness else None,
    }


router = APIRouter(prefix="/rulesets", tags=["rulesets"])
router.add_api_route(
    "/{ruleset}/analysis",
    analyse_ruleset,
    methods=["GET"],
    name="analyse_ruleset",
    response_model=AnalysisList,
    summary="Rules that never act as they stand, each with a frame that shows it.",
)
