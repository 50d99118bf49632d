"""Why does this frame go there? A trace of a frame that need not exist."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter
from pydantic import Field, StringConstraints

from vswitch.api.answers import Served
from vswitch.frames import FRAME_BYTES_MAX, FrameError, FrameFields, build
from vswitch.kinds.resource import Input, Output
from vswitch.problems import Detail, of_details
from vswitch.values import StationName

FrameHex = Annotated[
    str,
    StringConstraints(pattern=r"^([0-9A-Fa-f]{2})+$", min_length=2, max_length=2 * FRAME_BYTES_MAX),
    Field(
        description="The frame's bytes from the destination address on, without checksum.",
        examples=["ffffffffffff02000000000188b5"],
    ),
]


class TraceRequest(Input):
    """Either `frame_hex` or `frame`."""

    in_port: StationName = Field(description="The port that the frame comes in by.")
    frame_hex: FrameHex | None = None
    frame: FrameFields | None = Field(None, description="The frame by its fields.")
    state: Literal["new", "established", "related", "invalid"] | None = Field(
        None, description="Of its connection; null: what the connections in the table say."
    )


class TraceRule(Output):
    """A rule that was looked at."""

    ruleset: str
    rule: str
    action: str
    field: str = Field(description="The first field that does not match; empty: the rule matches.")
    wanted: str = Field(description="What the rule wants there.")
    got: str = Field(description="What the frame has there.")


class TraceStage(Output):
    stage: str = Field(
        description="parse, vlan_in, rules_ingress, fdb, flood, and for each destination "
        "rules_egress and tx."
    )
    port: str = Field(description="That the stage is about; empty: none.")
    result: str = Field(description="One word.", examples=["sound", "drop", "allow", "sent"])
    detail: str = Field(description="The same in a sentence.")
    rules: list[TraceRule] = Field(description="In the order in which they are asked.")
    rules_left_out: int = Field(description="Rules that do not match, beyond those listed.")


class TraceAnswer(Output):
    """What would become of the frame. Nothing was sent, counted or learned."""

    verdict: str = Field(
        description="Of several destinations the best.",
        json_schema_extra={"x-extensible-enum": ["forward", "drop", "reject", "consumed"]},
    )
    reason: str = Field(description="Why it is dropped, as in the counters; else empty.")
    out_ports: list[str]
    generation: int = Field(description="Of the tables that were asked.")
    fields: dict[str, str] = Field(description="What was read of the frame.")
    frame_hex: str
    stages: list[TraceStage]


def create_trace(served: Served, body: TraceRequest) -> Any:
    frame = _frame(body)
    told = served.runtime.trace(body.in_port, frame, body.state or "")
    return {
        "verdict": told.verdict,
        "reason": told.reason,
        "out_ports": told.out_ports,
        "generation": told.generation,
        "fields": told.fields,
        "frame_hex": frame.hex(),
        "stages": told.stages,
    }


def _frame(body: TraceRequest) -> bytes:
    if (body.frame_hex is None) == (body.frame is None):
        text = "One of `frame_hex` and `frame` says what the frame is."
        raise of_details([Detail("/frame_hex", "INVALID", text)])
    if body.frame is None:
        return bytes.fromhex(body.frame_hex or "")
    try:
        return build(body.frame)
    except FrameError as error:
        text = str(error)
        raise of_details(
            [Detail(f"/frame{error.pointer}", "INVALID", f"{text[0].upper()}{text[1:]}.")]
        ) from error


router = APIRouter(prefix="/traces", tags=["rules"])
router.add_api_route(
    "",
    create_trace,
    methods=["POST"],
    name="create_trace",
    response_model=TraceAnswer,
    summary="What would become of this frame, stage by stage.",
)
