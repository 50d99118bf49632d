"""Everything that can go wrong with a request, with its stable code and its HTTP status.

Services raise :class:`Problem`; the API turns it into RFC 9457 ``application/problem+json``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

STATUS: dict[str, int] = {
    "MALFORMED": 400,
    "UNAUTHENTICATED": 401,
    "FORBIDDEN": 403,
    "HOST_NOT_ALLOWED": 403,
    "ORIGIN_NOT_ALLOWED": 403,
    "NOT_FOUND": 404,
    "METHOD_NOT_ALLOWED": 405,
    "REQUEST_TIMEOUT": 408,
    "IN_USE": 409,
    "CONFLICT": 409,
    "PORT_BUSY": 409,
    "BRIDGE_LIMIT": 409,
    "PORT_LIMIT": 409,
    "FDB_LIMIT": 409,
    "RULE_LIMIT": 409,
    "RULESET_LIMIT": 409,
    "ATTACH_LIMIT": 409,
    "GROUP_LIMIT": 409,
    "MEMBER_LIMIT": 409,
    "POLICER_LIMIT": 409,
    "PRECONDITION_FAILED": 412,
    "BODY_TOO_LARGE": 413,
    "UNSUPPORTED_MEDIA_TYPE": 415,
    "INVALID": 422,
    "L3_PORT": 422,
    "FILTER_INVALID": 422,
    "JUMP_LIMIT": 422,
    "JUMP_LOOP": 422,
    "REFERENCE_NOT_FOUND": 422,
    "VALE_LIMIT": 422,
    "VLAN_CONFLICT": 422,
    "PRECONDITION_REQUIRED": 428,
    "INTERNAL": 500,
    "FASTPATH_DOWN": 503,
    "FASTPATH_BEHIND": 503,
    "FASTPATH_REFUSED": 503,
    "STORE_UNAVAILABLE": 503,
}
"""Code -> status. A code never changes its meaning; new ones may come."""

TITLES: dict[int, str] = {
    400: "The request could not be read",
    401: "A valid bearer token is needed",
    403: "Not allowed",
    404: "There is no such thing",
    405: "This method is not offered here",
    408: "The request took too long to arrive",
    409: "In conflict with the present configuration",
    412: "The object is not in the state you expected",
    413: "The request body is too large",
    415: "The request body has an unknown type",
    422: "The request makes no sense as it is",
    428: "If-Match is needed",
    500: "A fault of ours",
    503: "Not available now",
}


DETAILS_MAX = 100
"""As many faults as one problem names: 10,000 rules can have as many."""


@dataclass(frozen=True, slots=True)
class Detail:
    """One fault. ``pointer``: RFC 6901 into the body, or ``?name``, ``#header`` and the like.
    ``hint``: what to do about it; the first fault's is the problem's."""

    pointer: str
    code: str
    message: str
    hint: str = ""


@dataclass
class Problem(Exception):
    """Raised by services, answered as one problem document."""

    code: str
    detail: str
    errors: tuple[Detail, ...] = ()
    hint: str = ""
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def status(self) -> int:
        return STATUS[self.code]

    @property
    def title(self) -> str:
        return TITLES[self.status]

    def __str__(self) -> str:
        return f"{self.code}: {self.detail}"


def not_found(what: str, name: str) -> Problem:
    return Problem("NOT_FOUND", f"There is no {what} named {name}.")


def of_details(details: Iterable[Detail]) -> Problem:
    """One problem for several faults; its code is that of the first."""
    errors = tuple(details)[:DETAILS_MAX]
    first = errors[0]
    code = first.code if first.code in STATUS else "INVALID"
    return Problem(code, first.message, errors, first.hint)


def fastpath_down(detail: str) -> Problem:
    return Problem(
        "FASTPATH_DOWN",
        detail,
        hint="The configuration is kept and will be applied when the forwarder is back.",
        headers={"Retry-After": "1"},
    )
