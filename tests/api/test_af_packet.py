"""af_packet over REST: what is refused and where the pointer leads, what the driver gets, what
preflight says."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from fastpath.protocol import WirePort
from tests.api.conftest import API, Api
from tests.support.topology import end_process, wait_until


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


@pytest.mark.root
@pytest.mark.skipif(shutil.which("setpriv") is None, reason="needs setpriv of util-linux")
def test_P9_preflight_names_the_missing_capability(api: Api) -> None:
    backend = {"type": "af_packet", "ifname": "e0", "queues": 2, "fanout": "ebpf"}
    api.port("p1", bridge=None, backend=backend)
    api.port("p2", bridge=None, backend={**backend, "ifname": "e1", "fanout": "hash"})
    keeper = subprocess.Popen(["setpriv", "--reuid=65534", "--clear-groups", "sleep", "60"])
    pid_file = api.settings.run_dir / "keeper.pid"
    try:
        pid_file.write_text(str(keeper.pid))
        wait_until(lambda: "\nCapEff:\t0000000000000000" in status_of(keeper.pid), 5, "no rights")
        found = api("GET", "/system/preflight")["findings"]
    finally:
        end_process(keeper)
        pid_file.unlink()
    missing = [finding for finding in found if "CAP_BPF" in finding["message"]]
    assert [finding["object"] for finding in missing] == ["ports/p1"]
    assert "--cap-add BPF" in missing[0]["fix"]


def status_of(pid: int) -> str:
    return Path(f"/proc/{pid}/status").read_text()
