"""The HTTP application: routes, what turns errors into problems, the guard around all of it."""

from __future__ import annotations

from typing import Any

from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from vswitch import __version__
from vswitch.api import (
    analysis,
    clients,
    connections,
    fdb,
    metrics,
    rule_counters,
    rulesets,
    stats,
    system,
    traces,
)
from vswitch.api.answers import known_query, problem_response
from vswitch.api.crud import API, crud
from vswitch.api.guard import Guard
from vswitch.kinds import BRIDGE, GROUP, POLICER, PORT
from vswitch.openapi import document, methods_of_paths, query_names
from vswitch.problems import Detail, Problem
from vswitch.services import Services
from vswitch.services.changes import pointer, sentence, summary


def create_app(services: Services | None = None) -> FastAPI:
    """``services`` may be set later, as ``app.state.services``, before the first request."""
    app = FastAPI(
        title="vswitch",
        version=__version__,
        generate_unique_id_function=lambda route: route.name,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
    )
    checked = [Depends(known_query)]
    # Not through a router for all of them: each level of routers looks for the route again.
    for router in (
        crud(BRIDGE),
        fdb.router,
        crud(PORT),
        rulesets.router,
        rule_counters.router,
        analysis.router,
        crud(GROUP),
        crud(POLICER),
        stats.router,
        traces.router,
        connections.router,
        clients.router,
        system.router,
        system.history,
    ):
        app.include_router(router, prefix=API, dependencies=checked)
    app.include_router(metrics.router, dependencies=checked)
    app.add_api_route(
        f"{API}/openapi.json",
        lambda: app.openapi(),
        name="get_openapi",
        include_in_schema=False,
    )
    app.state.services = services
    app.add_exception_handler(Problem, _problem)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_middleware(Guard, services=lambda: app.state.services)
    app.openapi = lambda: document(app)  # type: ignore[method-assign]
    app.state.query_names = query_names(app.openapi())
    app.state.methods = methods_of_paths(app.openapi())
    return app


def _answer(request: Request, problem: Problem) -> Response:
    return problem_response(problem, request.state.request_id)


async def _problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    return _answer(request, error)


_PLACES = {"query": "?{}", "path": "{{{}}}", "header": "#{}"}


def _detail(fault: dict[str, Any]) -> Detail:
    place, *rest = fault["loc"]
    if place == "body":
        where = pointer(tuple(rest))
    else:
        where = _PLACES.get(place, "{}").format(rest[0] if rest else "")
    return Detail(where, "INVALID", sentence(fault["msg"]))


async def _invalid(request: Request, error: Exception) -> Response:
    """400 for what is no JSON, 422 for what makes no sense."""
    assert isinstance(error, RequestValidationError)
    faults = error.errors()
    for fault in faults:
        if fault["type"] == "json_invalid":
            reason = fault.get("ctx", {}).get("error", fault["msg"])
            return _answer(request, Problem("MALFORMED", f"The body is no JSON: {reason}."))
        if tuple(fault["loc"]) == ("body",) and fault["type"] == "missing":
            return _answer(request, Problem("MALFORMED", "A JSON object is needed as the body."))
    details = tuple(_detail(fault) for fault in faults)
    return _answer(request, Problem("INVALID", summary(details), details))


async def _http(request: Request, error: Exception) -> Response:
    """What Starlette itself finds out: no such path, no such method, an unreadable body."""
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        allow = ", ".join(allowed_methods(request))
        return _answer(
            request,
            Problem(
                "METHOD_NOT_ALLOWED",
                f"{request.method} is not offered here.",
                hint=f"Offered: {allow}.",
                headers={"Allow": allow},
            ),
        )
    if error.status_code == 404:
        return _answer(
            request,
            Problem("NOT_FOUND", "There is nothing at this path.", hint=f"See {API}/openapi.json."),
        )
    return _answer(request, Problem("MALFORMED", str(error.detail)))


def allowed_methods(request: Request) -> list[str]:
    """All methods of the path: the router itself tells those of its first route only."""
    path = request.scope["path"]
    for pattern, offered in request.app.state.methods:
        if pattern.fullmatch(path):
            return sorted(offered)
    return ["GET"]
