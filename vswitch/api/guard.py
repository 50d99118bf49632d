"""What every request passes before it is parsed: Host, Origin, credentials, size of the body.

Plain ASGI, so that nothing of a request is read before it is admitted, and so that whatever goes
wrong behind it still becomes a problem document with the request's id.
"""

import asyncio
import ipaddress
import logging
import re
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

from vswitch.api.answers import problem_response
from vswitch.auth import Peer, Principal
from vswitch.problems import Problem
from vswitch.services import Services
from vswitch.values import uuid7

log = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

OPEN = frozenset({"/api/v1/system/health", "/api/v1/system/ready"})
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
JSON_TYPES = ("application/json", "application/merge-patch+json")
# curl -d says this when nobody tells it otherwise. No browser can abuse it: every request needs
# a token that no page has, and Origin is checked.
CURL_DEFAULT = "application/x-www-form-urlencoded"
DRAIN_BYTES = 1024 * 1024
TRACES = "/api/v1/traces"
TRACE_BODY_BYTES_MAX = 256 * 1024  # the largest frame in hexadecimal, and some more
LARGE = re.compile(r"/api/v1/(rulesets/[^/]+(/import)?|groups/[^/]+)")


class Guard:
    """``services`` is asked for when the first request comes: they are made after the app."""

    def __init__(self, app: App, services: Callable[[], Services]) -> None:
        self._app = app
        self._services = services

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        request_id = uuid7()
        state = scope.setdefault("state", {})
        state["request_id"] = request_id
        started = False

        async def tagged_send(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message["headers"] = [
                    *message.get("headers", ()),
                    (b"x-request-id", request_id.encode()),
                    (b"cache-control", b"no-store"),
                    (b"x-content-type-options", b"nosniff"),
                ]
            await send(message)

        try:
            await self._admit(scope, receive, tagged_send)
        except Problem as problem:
            await problem_response(problem, request_id)(scope, receive, tagged_send)
        except Exception:
            log.exception("request %s %s %s failed", request_id, scope["method"], scope["path"])
            if started:
                raise
            fault = Problem(
                "INTERNAL",
                "The request failed for a reason that is no fault of yours.",
                hint=f"The log of the control plane says more about {request_id}.",
            )
            await problem_response(fault, request_id)(scope, receive, tagged_send)

    async def _admit(self, scope: Scope, receive: Receive, send: Send) -> None:
        services = self._services()
        headers = _Headers(scope["headers"])
        peer: Peer | None = scope["state"].get("peer")
        if peer is None:
            check_host(headers, services.settings.allowed_hosts)
        check_origin(headers, scope.get("scheme", "http"), services.settings.allowed_origins)
        if scope["path"] not in OPEN:
            scope["state"]["principal"] = authenticate(services, headers, peer, scope["method"])
        limit = body_limit(services, scope["path"])
        body = await self._body(headers, receive, services, limit)
        if body is not None:
            scope = {**scope, "headers": _as_json(scope["headers"], headers)}
            receive = _replay(body, receive)
        await self._app(scope, receive, send)

    async def _body(
        self, headers: "_Headers", receive: Receive, services: Services, limit: int
    ) -> bytes | None:
        """All of the body, within bounds of size and time; None: there is none."""
        length, chunked = headers.get("content-length"), headers.get("transfer-encoding")
        if length is None and chunked is None:
            return None
        if length is not None and length.isdecimal() and int(length[:18]) > limit + DRAIN_BYTES:
            raise _too_large(limit)
        try:
            async with asyncio.timeout(services.settings.request_timeout_s):
                body = await _read(receive, limit)
        except TimeoutError as error:
            raise Problem(
                "REQUEST_TIMEOUT",
                "The body did not arrive in time.",
                headers={"Connection": "close"},
            ) from error
        if body:
            content_type = headers.get("content-type", JSON_TYPES[0]).split(";")[0].strip().lower()
            if content_type not in (*JSON_TYPES, CURL_DEFAULT):
                raise Problem(
                    "UNSUPPORTED_MEDIA_TYPE",
                    "Bodies are JSON.",
                    hint="Content-Type: application/json",
                    headers={"Accept": "application/json"},
                )
        return body


def body_limit(services: Services, path: str) -> int:
    """Rule sets and groups are long lists, frames to be traced long words; the rest is small."""
    settings = services.settings
    if path == TRACES:
        return max(settings.body_bytes_max, TRACE_BODY_BYTES_MAX)
    return settings.large_body_bytes_max if LARGE.fullmatch(path) else settings.body_bytes_max


async def _read(receive: Receive, limit: int) -> bytes:
    """The body. One that is somewhat too large is read to its end, and dropped, before it is
    refused: a client that is still sending would not see the answer of a closed connection.
    """
    body = bytearray()
    total = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Problem("MALFORMED", "The client went away before its body was complete.")
        part = message.get("body", b"")
        total += len(part)
        if total <= limit:
            body += part
        more = message.get("more_body", False)
        if total > limit + DRAIN_BYTES or (total > limit and not more):
            raise _too_large(limit)
        if not more:
            return bytes(body)


def _too_large(limit: int) -> Problem:
    return Problem(
        "BODY_TOO_LARGE",
        f"A body may have {limit} bytes here.",
        headers={"Connection": "close"},
    )


def _replay(body: bytes, receive: Receive) -> Receive:
    sent = False

    async def replayed() -> Message:
        nonlocal sent
        if not sent:
            sent = True
            return {"type": "http.request", "body": body, "more_body": False}
        return await receive()

    return replayed


def _as_json(raw: Iterable[tuple[bytes, bytes]], headers: "_Headers") -> list[tuple[bytes, bytes]]:
    """The types we take mean JSON to all that comes behind."""
    rest = [(name, value) for name, value in raw if name.lower() != b"content-type"]
    return [*rest, (b"content-type", b"application/json")]


class _Headers:
    def __init__(self, raw: Iterable[tuple[bytes, bytes]]) -> None:
        self._values: dict[str, str] = {}
        self.counts: dict[str, int] = {}
        for name, value in raw:
            key = name.decode("latin-1").lower()
            self._values[key] = value.decode("latin-1")
            self.counts[key] = self.counts.get(key, 0) + 1

    def get(self, name: str, default: Any = None) -> Any:
        return self._values.get(name, default)


def check_host(headers: _Headers, allowed: Iterable[str]) -> None:
    """A page that rebinds its own name to our address sends its own name: that is refused.

    Addresses are no names that anyone can rebind; loopback names and those that the operator
    listed are ours.
    """
    host = _host_name(headers.get("host", ""))
    if headers.counts.get("host", 0) == 1 and (host in LOOPBACK or host in allowed):
        return
    try:
        ipaddress.ip_address(host)
    except ValueError as error:
        raise Problem(
            "HOST_NOT_ALLOWED",
            "The Host header names none of this appliance's names.",
            hint="Add the name to VSWITCH_ALLOWED_HOSTS.",
        ) from error


def _host_name(host: str) -> str:
    """ "[::1]:8080" -> "::1", "Localhost:80" -> "localhost"; "" when it makes no sense."""
    try:
        return (urlsplit(f"//{host}").hostname or "").lower()
    except ValueError:
        return ""


def check_origin(headers: _Headers, scheme: str, allowed: Iterable[str]) -> None:
    """Pages of other origins may not call the API; `null` is such an origin."""
    origin = headers.get("origin")
    if origin is None or origin in allowed or origin == f"{scheme}://{headers.get('host', '')}":
        return
    raise Problem(
        "ORIGIN_NOT_ALLOWED",
        "Pages of this origin may not call the API.",
        hint="Add the origin to VSWITCH_ALLOWED_ORIGINS.",
    )


def authenticate(
    services: Services, headers: _Headers, peer: Peer | None, method: str
) -> Principal:
    principal = None
    scheme, _, token = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and token:
        principal = services.authority.of_token(token.strip())
    elif not scheme and peer is not None:
        principal = services.authority.of_peer(peer)
    if principal is None:
        raise Problem(
            "UNAUTHENTICATED",
            "The request has no valid token.",
            hint="Authorization: Bearer <what admin.token in the data directory holds>",
            headers={"WWW-Authenticate": "Bearer"},
        )
    if not principal.may(method):
        raise Problem("FORBIDDEN", f"Role {principal.role} may only read.")
    return principal
