"""What rules met: counters of a set's rules, and its log. Import of tables of other programs."""

from datetime import UTC, datetime
from typing import Any

from fastapi import APIRouter
from pydantic import Field

from vswitch.api.answers import (
    By,
    Cursor,
    Limit,
    Served,
    Wait,
    decode_number,
    encode_cursor,
)
from vswitch.api.crud import NamePath
from vswitch.api.large import AnyBody, LargeRoute, documented_as, validated
from vswitch.api.rulesets import RuleSetPath
from vswitch.kinds import RULESET
from vswitch.kinds.resource import Output
from vswitch.problems import not_found
from vswitch.services.filterrules import ImportRequest, ImportResult, names_of

router = APIRouter(prefix="/rulesets", tags=["rulesets"], route_class=LargeRoute)
NS_PER_S = 1_000_000_000


class RuleCounter(Output):
    """Since the rule came into force; a rule that is changed begins anew."""

    id: str
    frames: int
    bytes: int
    last_hit: datetime | None = Field(description="To the second; null: never.")


class RuleCounterList(Output):
    """Rules in force, in their order. Those that come and go meanwhile may be missed."""

    items: list[RuleCounter]
    next_cursor: str | None = Field(description="Where the next page begins; null: the end.")


class RuleLogRecord(Output):
    at: datetime
    rule: str
    action: str
    in_port: str
    out_port: str | None = Field(description="null: met at ingress.")
    frame: int = Field(description="Its number on its worker: the stages of one frame agree.")
    frame_bytes: int
    head_hex: str = Field(description="The frame's first bytes.")
    generation: int = Field(description="Of the tables that the frame met.")


class RuleLogList(Output):
    items: list[RuleLogRecord]
    lost: int = Field(
        description="Records of all sets that were beyond the rate, since the control plane runs."
    )


@router.get(
    "/{ruleset}/counters",
    response_model=RuleCounterList,
    name="list_rule_counters",
    summary="Frames and bytes that each rule matched.",
)
def list_rule_counters(
    served: Served, ruleset: RuleSetPath, limit: Limit = 100, cursor: Cursor = None
) -> Any:
    page = served.runtime.rule_counters(ruleset, decode_number(cursor), limit)
    return {
        "items": [
            {
                "id": row.id,
                "frames": row.frames,
                "bytes": row.bytes,
                "last_hit": datetime.fromtimestamp(row.last_hit, UTC) if row.last_hit else None,
            }
            for row in page.rows
        ],
        "next_cursor": encode_cursor(str(page.cursor)) if page.cursor else None,
    }


@router.get(
    "/{ruleset}/log",
    response_model=RuleLogList,
    name="list_rule_log",
    summary="The newest frames that rules with `log` met, newest first.",
)
def list_rule_log(served: Served, ruleset: RuleSetPath, limit: Limit = 100) -> Any:
    if ruleset not in served.changes.current.rulesets:
        raise not_found(RULESET.title, ruleset)
    rows, lost = served.runtime.rule_log.newest(ruleset, limit)
    return {
        "items": [
            {
                "at": datetime.fromtimestamp(row.time_ns / NS_PER_S, UTC),
                "rule": row.rule,
                "action": row.action,
                "in_port": row.in_port,
                "out_port": row.out_port or None,
                "frame": row.frame,
                "frame_bytes": row.frame_len,
                "head_hex": row.head.hex(),
                "generation": row.generation,
            }
            for row in rows
        ],
        "lost": lost,
    }


@router.post(
    "/{name}/import",
    response_model=ImportResult,
    name="import_ruleset",
    openapi_extra=documented_as(ImportRequest),
    summary="Make rule sets of a packet filter's table, in place of what was imported before.",
    description="`filterrule`: a frame of IPv4 that fits a rule is dropped, what fits none is "
    "allowed. -1 is any; ports are looked at for TCP and UDP only. Rules of one `dir` become the "
    "set of this name; where both occur, two sets NAME-in and NAME-out. A rule's id is its place "
    "in the table; one with ports and without a protocol is two, the second one, PLACE-other, for "
    "what is neither TCP nor UDP.",
)
def import_ruleset(
    served: Served, by: By, name: NamePath, body: AnyBody, wait: Wait = "applied"
) -> Any:
    request = validated(ImportRequest, body)
    written = served.changes.import_rules(name, request, by)
    if wait != "none":
        timeout = served.settings.wait_applied_ms / 1000
        served.runtime.wait_in_force(written.revision, written.key, timeout)
    configuration = served.changes.current
    return {
        "items": [
            {"name": made, "direction": way, "rules": len(configuration.rules_of(made))}
            for way, made in names_of(name, request.rules).items()
        ]
    }
