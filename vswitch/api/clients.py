"""Clients: netmap programs that have ports of ours open, and taking such a port away."""

from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Path, Response
from pydantic import Field

from fastpath.protocol import ClientRow
from vswitch.api.answers import Cursor, Limit, Served, decode_number, encode_cursor
from vswitch.kinds.resource import Output


class Client(Output):
    """What one open of /dev/netmap is bound to."""

    id: int = Field(description="Never used twice while the switch runs.")
    name: str = Field(description="As the program gave it.", examples=["vale0:p1", "vale0:p1{3"])
    bridge: str | None = Field(description="The switch; null: it is in none.")
    port: str | None = Field(
        description="The port, as in the counters: a declared one's own name, else netmap's."
    )
    pid: int = Field(description="Who opened it; others may hold it by now.")
    uid: int
    gid: int
    program: str = Field(description="As it calls itself.")
    mode: str = Field(
        description="What it is; of a port, whether frames may go to other programs directly.",
        json_schema_extra={"x-extensible-enum": ["relay", "direct", "pipe", "monitor", "null"]},
    )
    tx_rings: int
    rx_rings: int
    tx_slots: int = Field(description="Of each ring.")
    rx_slots: int
    mem_id: int = Field(description="The program's memory region; others of one user may share it.")
    since: datetime
    syncs: int = Field(description="By the program's own count, as are the next two.")
    sleeps: int
    invalid: int = Field(description="Slots with a length or a buffer that makes no sense.")
    sent_frames: int = Field(description="By the program, into the switch.")
    sent_bytes: int
    received_frames: int = Field(description="By the program, out of the switch.")
    received_bytes: int
    drops: int = Field(description="Frames for which its memory had no room.")


class ClientList(Output):
    """A page. Clients that come meanwhile are behind its end."""

    items: list[Client]
    next_cursor: str | None = Field(description="Where the next page begins; null: the end.")


ClientId = Annotated[int, Path(ge=1, le=2**53, description="`id` of the client.")]
_SAME = frozenset(Client.model_fields) & frozenset(ClientRow.__struct_fields__) - {"port"}

router = APIRouter(prefix="/clients", tags=["clients"])


@router.get(
    "",
    name="list_clients",
    response_model=ClientList,
    summary="netmap programs that have ports open.",
)
def list_clients(served: Served, limit: Limit = 100, cursor: Cursor = None) -> Any:
    found = served.runtime.clients(decode_number(cursor), limit)
    return {
        "items": [_row(row) for row in found.rows],
        "next_cursor": encode_cursor(str(found.cursor)) if found.cursor else None,
    }


@router.get("/{id}", name="get_client", response_model=Client, summary="One of them.")
def get_client(served: Served, id: ClientId) -> Any:
    return _row(served.runtime.client(id))


@router.delete(
    "/{id}", name="evict_client", status_code=204, summary="Take its port away from a program."
)
def evict_client(served: Served, id: ClientId) -> Response:
    """Its next call fails with ENXIO. Nothing keeps it from opening the port again: whom a switch
    lets in is said by its `clients`."""
    served.runtime.evict_client(id)
    return Response(status_code=204)


def _row(row: ClientRow) -> dict[str, Any]:
    return {
        **{name: getattr(row, name) for name in _SAME},
        "bridge": row.switch or None,
        "port": row.port or None,
        "since": datetime.fromtimestamp(row.connected_at, UTC),
        "sent_frames": row.frames_from,
        "sent_bytes": row.bytes_from,
        "received_frames": row.frames_to,
        "received_bytes": row.bytes_to,
    }
