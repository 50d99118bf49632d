"""Bodies and answers of megabytes, without standing in the way of other requests.

FastAPI parses and validates bodies on the event loop, and 10,000 rules take it most of a second.
Here a body is parsed by the faster parser, and validated by the handler, which runs in a thread
and lets others have their turn; the document says the same as for every other body. Answers are
encoded in that thread, too.
"""

import json
from collections.abc import Callable, Coroutine
from typing import Annotated, Any, TypeVar

import msgspec
from fastapi import Body, Request, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from pydantic.json_schema import models_json_schema
from starlette.concurrency import run_in_threadpool

from vswitch.services.changes import invalid

REF_TEMPLATE = "#/components/schemas/{model}"
PARSED_AT_ONCE = 65_536
"""Bytes that are not worth a way to a thread and back."""
M = TypeVar("M", bound=BaseModel)

AnyBody = Annotated[Any, Body()]
"""JSON that the handler gives to :func:`validated`."""
_documented: dict[str, type[BaseModel]] = {}


def documented_as(model: type[BaseModel]) -> dict[str, Any]:
    """For ``openapi_extra`` of a route with such a body: what the body has to be."""
    _documented[model.__name__] = model
    schema = {"$ref": REF_TEMPLATE.format(model=model.__name__)}
    return {"requestBody": {"content": {"application/json": {"schema": schema}}}}


def documented_schemas() -> dict[str, Any]:
    """Schemas of all such bodies, and of what they are made of."""
    models: list[tuple[type[BaseModel], Any]] = [(m, "validation") for m in _documented.values()]
    _, schema = models_json_schema(models, ref_template=REF_TEMPLATE)
    definitions: dict[str, Any] = schema.get("$defs", {})
    return definitions


def validated(model: type[M], body: Any) -> M:
    try:
        return model.model_validate(body)
    except ValidationError as error:
        raise invalid(error) from error


def answer(document: dict[str, Any], response: Response) -> Response:
    """The document as it is, with the status and the headers that the handler has set."""
    return Response(
        msgspec.json.encode(document, enc_hook=_plain),
        status_code=response.status_code or 200,
        headers=dict(response.headers),
        media_type="application/json",
    )


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump()
    raise TypeError(f"{type(value).__name__} is no part of an answer")


class _LargeRequest(Request):
    async def json(self) -> Any:
        body = await self.body()
        if len(body) > PARSED_AT_ONCE:
            return await run_in_threadpool(_parse, body)
        return _parse(body)


def _parse(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        # The standard parser takes some more, and says better what is wrong.
        return json.loads(body)


class LargeRoute(APIRoute):
    """A route whose bodies may be large."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        original = super().get_route_handler()

        async def handler(request: Request) -> Response:
            return await original(_LargeRequest(request.scope, request.receive))

        return handler
