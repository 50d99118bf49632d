"""openapi.json: the document FastAPI makes, put right where generators need it.

    python -m vswitch.openapi > openapi.json

Every operation lists the problems it can answer, as application/problem+json; FastAPI's own
shape of a 422 goes; security says which operations need no token.
"""

from __future__ import annotations

import json
import re
import sys
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from vswitch.kinds import KINDS
from vswitch.problems import STATUS, TITLES

_OPEN = {"get_health", "get_ready"}
_PROBLEM = {"$ref": "#/components/schemas/ProblemDocument"}
_ETAG = {
    "description": "The generation, in quotes: for If-Match.",
    "schema": {"type": "string"},
}
_LOCATION = {
    "description": "Where to look: the object made, or the revision that is pending.",
    "schema": {"type": "string"},
}
_DESCRIPTION = (
    "A virtual switch: bridges, ports, static FDB entries, rules; what is wanted (`spec`) and what "
    "is (`status`). Every error is an RFC 9457 problem. Writes are idempotent; `ETag` is the "
    "generation."
)


def document(app: FastAPI) -> dict[str, Any]:
    if app.openapi_schema is None:
        app.openapi_schema = _build(app)
    return app.openapi_schema


def _build(app: FastAPI) -> dict[str, Any]:
    from vswitch.api.answers import ProblemDocument
    from vswitch.api.large import documented_schemas

    schema = get_openapi(
        title=app.title,
        version=app.version,
        openapi_version="3.1.0",
        description=_DESCRIPTION,
        routes=app.routes,
    )
    components = schema["components"]
    schemas = components["schemas"]
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    schemas |= documented_schemas()
    problem = ProblemDocument.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas |= problem.pop("$defs")
    schemas["ProblemDocument"] = problem
    components["schemas"] = dict(sorted(schemas.items()))
    components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    schema["security"] = [{"token": []}]
    for path in schema["paths"].values():
        for method, operation in path.items():
            _finish(method, operation)
    return schema


def _finish(method: str, operation: dict[str, Any]) -> None:
    responses = operation["responses"]
    responses.pop("422", None)
    for parameter in operation.get("parameters", ()):
        # A parameter is there or not; it cannot be null.
        shapes = parameter["schema"].pop("anyOf", None)
        if shapes:
            parameter["schema"] |= next(shape for shape in shapes if shape.get("type") != "null")
    for content in operation.get("requestBody", {}).get("content", {}).values():
        if "$ref" in content["schema"]:
            content["schema"] = {"$ref": content["schema"]["$ref"]}
    open_to_all = operation["operationId"] in _OPEN
    if open_to_all:
        operation["security"] = []
    for status in sorted(_statuses(method, operation, open_to_all)):
        responses[str(status)] = {
            "description": f"{TITLES[status]}: {', '.join(_codes(status))}.",
            "content": {"application/problem+json": {"schema": _PROBLEM}},
        }
    if "401" in responses:
        responses["401"]["headers"] = {"WWW-Authenticate": {"schema": {"type": "string"}}}
    if any(item["name"] == "if-match" for item in operation.get("parameters", ())) or (
        operation["operationId"] in {f"get_{word}" for word in (*KINDS, "fdb_entry")}
    ):
        for text in ("200", "201", "202"):
            if text in responses and "content" in responses[text]:
                responses[text].setdefault("headers", {})["ETag"] = _ETAG
    for text in ("201", "202"):
        if text in responses:
            responses[text].setdefault("headers", {})["Location"] = _LOCATION
    operation["responses"] = dict(sorted(responses.items()))


def query_names(schema: dict[str, Any]) -> dict[str, frozenset[str]]:
    """Operation -> names of its query parameters."""
    return {
        operation["operationId"]: frozenset(
            item["name"] for item in operation.get("parameters", ()) if item["in"] == "query"
        )
        for path in schema["paths"].values()
        for operation in path.values()
    }


def methods_of_paths(schema: dict[str, Any]) -> list[tuple[re.Pattern[str], tuple[str, ...]]]:
    """Patterns of paths with the methods they offer; a literal path comes before a pattern."""
    paths = sorted(schema["paths"].items(), key=lambda item: item[0].count("{"))
    return [
        (
            re.compile("[^/]+".join(map(re.escape, re.split(r"{[^}]*}", path)))),
            tuple(method.upper() for method in operations),
        )
        for path, operations in paths
    ]


def _codes(status: int) -> list[str]:
    return [code for code, value in STATUS.items() if value == status]


def _statuses(method: str, operation: dict[str, Any], open_to_all: bool) -> set[int]:
    """Which problems an operation can answer."""
    statuses = {403, 405, 422, 500}
    asks_forwarder = operation["operationId"] in _ASK_FORWARDER
    if open_to_all:
        return statuses | ({503} if operation["operationId"] == "get_ready" else set())
    statuses |= {401}
    if any(item["in"] == "path" for item in operation.get("parameters", ())):
        statuses |= {404}
    if any(item["name"] == "if-match" for item in operation.get("parameters", ())):
        statuses |= {409, 412, 428, 503}
    if operation["operationId"] == "import_ruleset":
        statuses |= {409, 503}
    if "requestBody" in operation:
        statuses |= {400, 408, 413, 415}
    if asks_forwarder:
        statuses |= {503}
    return statuses


_ASK_FORWARDER = {
    "list_fdb",
    "flush_fdb",
    "list_port_stats",
    "list_queue_stats",
    "list_drop_stats",
    "get_ledger",
    "list_rule_counters",
    "create_trace",
    "analyse_ruleset",
    "list_connections",
    "flush_connections",
    "list_clients",
    "get_client",
    "evict_client",
}


def dumps(schema: dict[str, Any]) -> str:
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def main() -> None:
    from vswitch.app import create_app

    sys.stdout.write(dumps(create_app().openapi()))


if __name__ == "__main__":
    main()
