"""The FDB of a bridge: the table in force, flushing it, and static entries."""

from typing import Any

from fastapi import APIRouter, Response
from pydantic import Field
from starlette.convertors import Convertor, register_url_convertor

from vswitch.api.answers import (
    By,
    Conditions,
    Cursor,
    Limit,
    Match,
    Served,
    Wait,
    decode_number,
    encode_cursor,
)
from vswitch.api.crud import (
    BridgePath,
    MacPath,
    add_list,
    add_object_routes,
    answer_deleted,
    answer_stored,
    answer_written,
    body_patch,
)
from vswitch.api.large import AnyBody, LargeRoute, validated
from vswitch.kinds import FDB, Key
from vswitch.kinds.fdb import FdbRow
from vswitch.kinds.resource import Input, Output
from vswitch.values import Name, Vid


class FdbRowList(Output):
    """A page of the table. Stations that come and go meanwhile may be missed or seen twice."""

    items: list[FdbRow]
    next_cursor: str | None = Field(description="Where the next page begins; null: the end.")


class FlushRequest(Input):
    """Which learned entries; nothing said: all."""

    port: Name | None = Field(None, description="Only entries of this port.")
    vlan: Vid | None = Field(None, description="Only entries of this VLAN.")


class FlushResult(Output):
    entries: int = Field(description="Learned entries that were removed. Static ones stay.")


def _key(bridge: str, mac: str) -> Key:
    return Key("fdb", mac.lower(), bridge)


def list_fdb(served: Served, bridge: BridgePath, limit: Limit = 100, cursor: Cursor = None) -> Any:
    table = served.runtime.fdb(bridge, decode_number(cursor), limit)
    return {
        "items": [
            {
                "bridge": bridge,
                "mac": row.mac,
                "vlan": row.vid,
                "port": row.port,
                "static": row.static,
                "age_s": row.age_s,
                "moves": row.moves,
            }
            for row in table.rows
        ],
        "next_cursor": encode_cursor(str(table.cursor)) if table.cursor else None,
    }


def flush_fdb(
    served: Served,
    bridge: BridgePath,
    body: FlushRequest | None = None,
) -> Any:
    wanted = body or FlushRequest()
    return {"entries": served.runtime.flush_fdb(bridge, wanted.port, wanted.vlan)}


def get(served: Served, response: Response, bridge: BridgePath, mac: MacPath) -> Any:
    return answer_stored(served, _key(bridge, mac), response)


def put(
    served: Served,
    by: By,
    response: Response,
    bridge: BridgePath,
    mac: MacPath,
    conditions: Conditions,
    body: AnyBody,
    wait: Wait = "applied",
) -> Any:
    write = validated(FDB.write, body)
    written = served.changes.put(_key(bridge, mac), write, conditions, by)
    return answer_written(served, written, wait, response)


def patch(
    served: Served,
    by: By,
    response: Response,
    bridge: BridgePath,
    mac: MacPath,
    match: Match,
    body: AnyBody,
    wait: Wait = "applied",
) -> Any:
    patch = body_patch(validated(FDB.patch, body))
    written = served.changes.patch(_key(bridge, mac), patch, match, by)
    return answer_written(served, written, wait, response)


def delete(
    served: Served,
    by: By,
    bridge: BridgePath,
    mac: MacPath,
    match: Match,
    wait: Wait = "applied",
) -> Response:
    written = served.changes.delete(_key(bridge, mac), match, by, cascade=False)
    return answer_deleted(served, written, wait)


class _MacConvertor(Convertor[str]):
    """What cannot be an address is no entry's path: `flush` stays free for its own methods."""

    regex = "[0-9A-Fa-f:]{17}"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("mac", _MacConvertor())
router = APIRouter(prefix="/bridges/{bridge}/fdb", tags=["fdb"], route_class=LargeRoute)
add_list(router, "", FdbRowList, list_fdb, "list_fdb", "The table in force: learned and static.")
router.add_api_route(
    "/flush",
    flush_fdb,
    methods=["POST"],
    name="flush_fdb",
    response_model=FlushResult,
    summary="Forget learned stations.",
)
add_object_routes(router, "/{mac:mac}", FDB, (get, put, patch, delete))
