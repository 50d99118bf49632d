"""af_packet and af_xdp over REST: what is refused and where the pointer leads, what the driver
gets, what preflight says."""

from __future__ import annotations

from typing import Any

import pytest

from fastpath.protocol import WirePort
from tests.api.conftest import API, Api


@pytest.mark.parametrize(
    ("fields", "pointer"),
    [
        ({"version": 4}, "/spec/backend/version"),
        ({"ring": "none"}, "/spec/backend/ring"),
        ({"fanout": "cats"}, "/spec/backend/fanout"),
        ({"timestamp": "sundial"}, "/spec/backend/timestamp"),
        ({"filter": "tcp or"}, "/spec/backend/filter"),
        ({"filter": "port http"}, "/spec/backend/filter"),
        ({"filter": "ether[11:2] = 1"}, "/spec/backend/filter"),
        (
            {"fanout": "cbpf", "queues": 2, "fanout_program": "host"},
            "/spec/backend/fanout_program",
        ),
        ({"geometry": {"block_bytes": 5000}}, "/spec/backend/geometry/block_bytes"),
        ({"geometry": {"blocks": 0}}, "/spec/backend/geometry/blocks"),
        ({"geometry": {"frame_bytes": 2050}, "version": 2}, "/spec/backend/geometry/frame_bytes"),
        (
            {"geometry": {"block_bytes": 4096, "frame_bytes": 8192}, "version": 2},
            "/spec/backend/geometry/frame_bytes",
        ),
        ({"geometry": {"block_bytes": 2**30, "blocks": 2}}, "/spec/backend/geometry"),
        ({"geometry": {"block_bytes": 2**26, "blocks": 8}, "queues": 4}, "/spec/backend"),
        ({"version": 3, "geometry": {"frame_bytes": 2048}}, "/spec/backend"),
        ({"version": 2, "retire_ms": 5}, "/spec/backend"),
        ({"retire_ms": 0, "version": 3}, "/spec/backend/retire_ms"),
        ({"fanout": "cbpf"}, "/spec/backend"),
        ({"fanout": "rollover", "fanout_rollover": True}, "/spec/backend"),
    ],
)
def test_P2_P9_refused_with_a_pointer(api: Api, fields: dict[str, Any], pointer: str) -> None:
    backend = {"type": "af_packet", "ifname": "e0", **fields}
    answer = api.http.put(f"{API}/ports/p1", json={"spec": {"backend": backend}})
    assert answer.status_code == 422, answer.text
    assert [item["pointer"] for item in answer.json()["errors"]] == [pointer]


def test_what_the_driver_gets(api: Api) -> None:
    backend = {
        "type": "af_packet",
        "ifname": "e0",
        "version": 3,
        "ring": "both",
        "geometry": {"block_bytes": 65536, "blocks": 16},
        "retire_ms": 5,
        "rxhash": True,
        "queues": 2,
        "fanout": "cbpf",
        "fanout_program": "udp port 5060",
        "fanout_rollover": True,
        "fanout_group": 7,
        "filter": "vlan 10 and tcp",
    }
    api.port("p1", bridge=None, backend=backend)
    wire = api.forwarder.objects["port/p1"]
    assert isinstance(wire, WirePort)
    sent = wire.options
    assert (sent["geometry_block_bytes"], sent["geometry_blocks"]) == ("65536", "16")
    assert "geometry_frame_bytes" not in sent
    assert (sent["ring"], sent["retire_ms"], sent["rxhash"]) == ("both", "5", "1")
    assert (sent["fanout"], sent["fanout_rollover"], sent["fanout_group"]) == ("cbpf", "1", "7")
    for program in (sent["filter"], sent["fanout_program"]):
        count, *instructions = program.split(",")
        assert int(count) == len(instructions) > 3
    read = api("GET", "/ports/p1")["spec"]["backend"]
    assert {name: read[name] for name in backend if name != "geometry"} == {
        name: value for name, value in backend.items() if name != "geometry"
    }
    assert read["geometry"] == {"block_bytes": 65536, "blocks": 16, "frame_bytes": None}


def test_af_xdp_leaves_the_number_of_queues_to_the_interface(api: Api) -> None:
    for fields, options in (({}, {}), ({"queues": 2}, {"queues": "2"})):
        api.port("p1", bridge=None, backend={"type": "af_xdp", "ifname": "e0", **fields})
        wire = api.forwarder.objects["port/p1"]
        assert isinstance(wire, WirePort)
        assert (wire.type, wire.options) == ("af_xdp", {"ifname": "e0", **options})
    backend = {"type": "af_xdp", "ifname": "e0", "queues": 17}
    answer = api.http.put(f"{API}/ports/p2", json={"spec": {"backend": backend}})
    assert [item["pointer"] for item in answer.json()["errors"]] == ["/spec/backend/queues"]
