"""The same five operations for every kind: list, get, put, patch, delete."""

from typing import Annotated, Any

from fastapi import APIRouter, Path, Response

from vswitch.api.answers import (
    By,
    Cascade,
    Conditions,
    Cursor,
    LabelFilter,
    Limit,
    Match,
    Served,
    Wait,
    decode_cursor,
    encode_cursor,
    etag,
    has_labels,
)
from vswitch.api.large import AnyBody, LargeRoute, documented_as, validated
from vswitch.kinds import FDB, Key, Kind
from vswitch.services import Services
from vswitch.services.changes import Written
from vswitch.values import MAC_PATTERN, NAME_PATTERN

API = "/api/v1"
NamePath = Annotated[str, Path(pattern=NAME_PATTERN, description="Name of the object.")]
BridgePath = Annotated[str, Path(pattern=NAME_PATTERN, description="Name of the bridge.")]
MacPath = Annotated[
    str,
    Path(
        pattern=MAC_PATTERN,
        description="Six pairs of hexadecimal digits; not a group address.",
        examples=["02:00:00:00:00:01"],
    ),
]


def page_of(
    services: Services, kind: Kind, label: list[str] | None, limit: int, cursor: str | None
) -> dict[str, Any]:
    """Objects by name, from behind the cursor."""
    after = decode_cursor(cursor)
    objects = services.changes.current.named(kind.word)
    found = [
        name for name in sorted(objects) if name > after and has_labels(objects[name].labels, label)
    ]
    page = found[:limit]
    more = len(found) > limit
    return {
        "items": [services.runtime.document(objects[name]) for name in page],
        "next_cursor": encode_cursor(page[-1]) if more else None,
    }


def settled(services: Services, written: Written, wait: str, response: Response) -> bool:
    """Wait as asked; False: still pending, and the answer says where to look."""
    timeout = services.settings.wait_applied_ms / 1000
    if wait == "none" or services.runtime.wait_in_force(written.revision, written.key, timeout):
        return True
    response.headers["Location"] = f"{API}/revisions/{written.revision}"
    response.headers["Retry-After"] = "1"
    return False


def answer_written(services: Services, written: Written, wait: str, response: Response) -> Any:
    assert written.stored is not None
    if written.created:
        response.status_code = 201
        response.headers["Location"] = f"{API}/{written.stored.key.path}"
    if not settled(services, written, wait, response):
        response.status_code = 202
    response.headers["ETag"] = etag(written.stored.generation)
    return services.runtime.document(written.stored)


def answer_deleted(services: Services, written: Written, wait: str) -> Response:
    response = Response(status_code=204)
    if not settled(services, written, wait, response):
        response.status_code = 202
    return response


def answer_stored(services: Services, key: Key, response: Response) -> Any:
    stored = services.changes.get(key)
    response.headers["ETag"] = etag(stored.generation)
    return services.runtime.document(stored)


def body_patch(body: Any) -> dict[str, Any]:
    """What the client really sent."""
    patch: dict[str, Any] = body.model_dump(exclude_unset=True, by_alias=True, mode="json")
    return patch


def crud(kind: Kind) -> APIRouter:
    """Routes of a kind whose objects are named in the URL: /bridges/{name}."""
    router = APIRouter(prefix=f"/{kind.word}s", tags=[f"{kind.word}s"], route_class=LargeRoute)
    word = kind.word

    def list_(
        served: Served, label: LabelFilter = None, limit: Limit = 100, cursor: Cursor = None
    ) -> Any:
        return page_of(served, kind, label, limit, cursor)

    def get(served: Served, response: Response, name: NamePath) -> Any:
        return answer_stored(served, Key(word, name), response)

    def put(
        served: Served,
        by: By,
        response: Response,
        name: NamePath,
        conditions: Conditions,
        body: AnyBody,
        wait: Wait = "applied",
    ) -> Any:
        write = validated(kind.write, body)
        written = served.changes.put(Key(word, name), write, conditions, by)
        return answer_written(served, written, wait, response)

    def patch(
        served: Served,
        by: By,
        response: Response,
        name: NamePath,
        match: Match,
        body: AnyBody,
        wait: Wait = "applied",
    ) -> Any:
        patch = body_patch(validated(kind.patch, body))
        written = served.changes.patch(Key(word, name), patch, match, by)
        return answer_written(served, written, wait, response)

    def delete(
        served: Served,
        by: By,
        name: NamePath,
        match: Match,
        cascade: Cascade = False,
        wait: Wait = "applied",
    ) -> Response:
        written = served.changes.delete(Key(word, name), match, by, cascade=cascade)
        return answer_deleted(served, written, wait)

    add_list(router, "", kind.page, list_, f"list_{word}s", f"All {word}s, by name.")
    add_object_routes(router, "/{name}", kind, (get, put, patch, delete))
    return router


def add_list(
    router: APIRouter, path: str, model: Any, handler: Any, name: str, summary: str
) -> None:
    router.add_api_route(
        path,
        handler,
        methods=["GET"],
        name=name,
        response_model=model,
        response_model_exclude_unset=True,
        summary=summary,
    )


def add_object_routes(
    router: APIRouter, path: str, kind: Kind, handlers: tuple[Any, Any, Any, Any]
) -> None:
    get, put, patch, delete = handlers
    word, title = ("fdb_entry" if kind is FDB else kind.word), kind.title
    pending: dict[int | str, dict[str, Any]] = {
        202: {"model": kind.read, "description": "Stored; the forwarder has not applied it yet."}
    }
    created: dict[int | str, dict[str, Any]] = {
        201: {"model": kind.read, "description": "Made, and in force."}
    }
    router.add_api_route(
        path,
        get,
        methods=["GET"],
        name=f"get_{word}",
        response_model=kind.read,
        response_model_exclude_unset=True,
        summary=f"One {title}: what is wanted and what is.",
    )
    router.add_api_route(
        path,
        put,
        methods=["PUT"],
        name=f"put_{word}",
        openapi_extra=documented_as(kind.write),
        response_model=kind.read,
        response_model_exclude_unset=True,
        responses=pending | created,
        summary=f"Create or replace a {title}. The same again changes nothing.",
    )
    router.add_api_route(
        path,
        patch,
        methods=["PATCH"],
        name=f"patch_{word}",
        openapi_extra=documented_as(kind.patch),
        response_model=kind.read,
        response_model_exclude_unset=True,
        responses=pending,
        summary=f"Change part of a {title} (JSON Merge Patch).",
    )
    router.add_api_route(
        path,
        delete,
        methods=["DELETE"],
        name=f"delete_{word}",
        status_code=204,
        responses={202: {"description": "Stored; the forwarder has not applied it yet."}},
        summary=f"Delete a {title}.",
    )
