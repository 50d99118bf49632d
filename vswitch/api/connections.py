"""Connections: what the rules' connection tracking knows, and forgetting it."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from pydantic import Field

from fastpath.protocol import Connection, ConnectionQuery
from vswitch.api.answers import Cursor, Limit, Served, decode_number, encode_cursor
from vswitch.kinds.resource import Input, Output
from vswitch.values import AnyAddress, Name

PROTOCOLS = {"tcp": 6, "udp": 17, "icmp": 1, "icmpv6": 58}
_NAMES = {number: name for name, number in PROTOCOLS.items()}

Protocol = Literal["tcp", "udp", "icmp", "icmpv6"]
State = Literal["new", "established"]
TcpState = Literal[
    "syn_sent",
    "simultaneous",
    "syn_received",
    "established",
    "fin_wait",
    "close_wait",
    "closing",
    "closed",
]


class ConnectionRow(Output):
    """One connection. `src` is who began it."""

    bridge: str
    vlan: int = Field(description="0: none.")
    port: str = Field(description="It began with a frame received here.")
    proto: Protocol
    src: str
    dst: str
    src_port: int | None = Field(description="null: ICMP has none.")
    dst_port: int | None
    identifier: int | None = Field(description="Of ICMP requests and replies; else null.")
    state: State = Field(description="new: nobody has answered yet.")
    tcp_state: TcpState | None = Field(description="null: it is not TCP.")
    expires_s: int = Field(description="It is forgotten after so much silence.")
    src_frames: int = Field(description="From src. A frame that is yet to be segmented is one.")
    src_bytes: int
    dst_frames: int = Field(description="From dst.")
    dst_bytes: int


class ConnectionList(Output):
    """A page. Connections that come and go meanwhile may be missed."""

    items: list[ConnectionRow]
    next_cursor: str | None = Field(description="Where the next page begins; null: the end.")
    count: int = Field(description="Connections known, whatever was asked for.")
    max: int = Field(description="There is room for so many.")


class ConnectionFlush(Input):
    """Which connections; nothing said: all."""

    bridge: Name | None = Field(None, description="Only those of this bridge.")
    port: Name | None = Field(None, description="Only those that began on this port.")
    address: AnyAddress | None = Field(None, description="Only those with this address at an end.")


class ConnectionsRemoved(Output):
    removed: int = Field(description="Connections that were forgotten.")


router = APIRouter(prefix="/connections", tags=["connections"])


@router.get(
    "",
    name="list_connections",
    response_model=ConnectionList,
    summary="Connections that rules with a state follow.",
)
def list_connections(
    served: Served,
    limit: Limit = 100,
    cursor: Cursor = None,
    bridge: Annotated[Name | None, Query(description="Only those of this bridge.")] = None,
    port: Annotated[Name | None, Query(description="Only those that began on this port.")] = None,
    address: Annotated[
        AnyAddress | None, Query(description="Only those with this address at an end.")
    ] = None,
    proto: Annotated[Protocol | None, Query(description="Only those of this protocol.")] = None,
    state: Annotated[State | None, Query(description="Only those in this state.")] = None,
) -> Any:
    query = ConnectionQuery(
        bridge=bridge or "",
        port=port or "",
        address=address or "",
        proto=PROTOCOLS[proto] if proto else 0,
        state=state or "",
    )
    found = served.runtime.connections(query, decode_number(cursor), limit)
    return {
        "items": [_row(row) for row in found.rows],
        "next_cursor": encode_cursor(str(found.cursor)) if found.cursor else None,
        "count": found.count,
        "max": found.max,
    }


@router.post(
    "/flush",
    name="flush_connections",
    response_model=ConnectionsRemoved,
    summary="Forget connections.",
)
def flush_connections(served: Served, body: ConnectionFlush | None = None) -> Any:
    """What goes on afterwards has to begin anew: a TCP segment from the middle is invalid."""
    wanted = body or ConnectionFlush()
    query = ConnectionQuery(
        bridge=wanted.bridge or "", port=wanted.port or "", address=wanted.address or ""
    )
    return {"removed": served.runtime.flush_connections(query)}


def _row(row: Connection) -> dict[str, Any]:
    proto = _NAMES[row.proto]
    ports = proto in ("tcp", "udp")
    return {
        "bridge": row.bridge,
        "vlan": row.vid,
        "port": row.port,
        "proto": proto,
        "src": row.src,
        "dst": row.dst,
        "src_port": row.src_port if ports else None,
        "dst_port": row.dst_port if ports else None,
        "identifier": None if ports else row.src_port,
        "state": row.state,
        "tcp_state": row.tcp_state or None,
        "expires_s": row.expires_s,
        "src_frames": row.frames[0],
        "src_bytes": row.bytes[0],
        "dst_frames": row.frames[1],
        "dst_bytes": row.bytes[1],
    }
