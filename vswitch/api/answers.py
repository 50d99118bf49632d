"""What every handler shares: problem documents, dependencies, paging, preconditions."""

import base64
import binascii
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from fastapi import Depends, Header, Query, Request
from pydantic import BaseModel, Field
from starlette.responses import JSONResponse

from vswitch.problems import STATUS, Problem
from vswitch.services import Services
from vswitch.services.changes import Preconditions
from vswitch.store import Actor

PROBLEM_TYPE = "application/problem+json"
TYPE_BASE = "urn:vswitch:problem:"


class ProblemError(BaseModel):
    """One fault of a request."""

    pointer: str = Field(
        description="Where: a JSON pointer into the body, ?name for a parameter, {name} for a "
        "part of the path, #Name for a header; empty: the request as a whole."
    )
    code: str
    message: str


class ProblemDocument(BaseModel):
    """RFC 9457: every error of every operation looks like this."""

    type: str = Field(description=f"{TYPE_BASE}<code>")
    title: str
    status: int
    code: str = Field(
        description="Stable; new ones may come: " + ", ".join(STATUS) + ".",
        json_schema_extra={"x-extensible-enum": list(STATUS)},
    )
    detail: str
    errors: list[ProblemError]
    hint: str = Field(description="What to do about it; may be empty.")
    request_id: str


def problem_response(problem: Problem, request_id: str) -> JSONResponse:
    document = {
        "type": TYPE_BASE + problem.code.lower().replace("_", "-"),
        "title": problem.title,
        "status": problem.status,
        "code": problem.code,
        "detail": _printable(problem.detail),
        "errors": [
            {
                "pointer": _printable(item.pointer),
                "code": item.code,
                "message": _printable(item.message),
            }
            for item in problem.errors
        ],
        "hint": problem.hint,
        "request_id": request_id,
    }
    return JSONResponse(document, problem.status, headers=problem.headers, media_type=PROBLEM_TYPE)


def _printable(text: str) -> str:
    """A request may hold lone surrogates, which no UTF-8 can carry back."""
    return text.encode("utf-8", "replace").decode()


# --- dependencies -------------------------------------------------------------------------------
# async, although they wait for nothing: FastAPI takes each of the others to a thread and back.


async def _services(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


async def _actor(request: Request) -> Actor:
    return Actor(request.state.principal.name, request.state.request_id)


async def known_query(request: Request) -> None:
    """An unknown parameter is refused: ignoring ?dry_run=true would be dangerous."""
    if not request.query_params:
        return
    known = request.app.state.query_names.get(request.scope["route"].name, frozenset())
    for name in request.query_params:
        if name not in known:
            raise Problem(
                "INVALID",
                f"There is no parameter named {name} here.",
                hint=f"Known: {', '.join(sorted(known))}." if known else "None is known here.",
            )


ETAGS = r'^(\*|"[0-9]{1,15}"( *, *"[0-9]{1,15}")*)$'


async def _preconditions(
    if_match: Annotated[
        str | None,
        Header(pattern=ETAGS, description="Only if the object has this ETag (or, *, exists)."),
    ] = None,
    if_none_match: Annotated[
        str | None, Header(pattern=r"^\*$", description="*: only if there is no such object.")
    ] = None,
) -> Preconditions:
    match = None
    if if_match is not None:
        tags = [] if if_match == "*" else if_match.split(",")
        match = frozenset(int(tag.strip().strip('"')) for tag in tags)
    return Preconditions(match, create_only=if_none_match is not None)


async def _match(
    if_match: Annotated[
        str | None,
        Header(pattern=ETAGS, description="Only if the object has this ETag (or, *, exists)."),
    ] = None,
) -> Preconditions:
    return await _preconditions(if_match)


Served = Annotated[Services, Depends(_services)]
By = Annotated[Actor, Depends(_actor)]
Conditions = Annotated[Preconditions, Depends(_preconditions)]
Match = Annotated[Preconditions, Depends(_match)]
Wait = Annotated[
    Literal["applied", "none"],
    Query(
        description="applied: answer when the forwarder has it in force, with 202 when that takes "
        "too long; none: answer when it is stored."
    ),
]
Cascade = Annotated[bool, Query(description="Delete what refers to it, too.")]
Limit = Annotated[int, Query(ge=1, le=1000, description="Most items of a page.")]
Cursor = Annotated[str | None, Query(max_length=200, description="next_cursor of the page before.")]
LABEL_FILTER = r"^[A-Za-z0-9][A-Za-z0-9_./-]{0,62}=[A-Za-z0-9_.:/@+ -]{0,63}$"
LabelFilter = Annotated[
    list[Annotated[str, Field(pattern=LABEL_FILTER)]] | None,
    Query(description="KEY=VALUE; several must all fit.", max_length=32),
]


# --- paging -------------------------------------------------------------------------------------


def encode_cursor(position: str) -> str:
    return base64.urlsafe_b64encode(position.encode()).decode().rstrip("=")


def decode_cursor(cursor: str | None) -> str:
    """The position behind which the page begins; "" is the beginning."""
    if cursor is None:
        return ""
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        return base64.b64decode(padded, altchars=b"-_", validate=True).decode("ascii")
    except (binascii.Error, ValueError) as error:
        raise bad_cursor() from error


def decode_number(cursor: str | None) -> int:
    text = decode_cursor(cursor)
    if not text:
        return 0
    if not text.isdecimal() or len(text) > 15:
        raise bad_cursor()
    return int(text)


def bad_cursor() -> Problem:
    return Problem("INVALID", "The cursor is none of ours.", hint="Begin without a cursor.")


def has_labels(labels: Mapping[str, str], wanted: list[str] | None) -> bool:
    pairs = (item.split("=", 1) for item in wanted or ())
    return all(labels.get(key) == value for key, value in pairs)


def etag(generation: int) -> str:
    return f'"{generation}"'


Answer = Any
