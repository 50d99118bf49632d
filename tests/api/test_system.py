"""System, statistics, metrics, preflight: what operators look at."""

from __future__ import annotations

import shutil
import stat
import subprocess
from collections.abc import Callable

import pytest

from fastpath.protocol import FdbRow
from tests.api.conftest import API, Api


def test_stats_say_the_same_in_every_form(api: Api) -> None:
    api.bridge()
    api.port("p1")
    api.port("p2")
    ports = api("GET", "/stats/ports")
    first = ports["items"][0]
    assert (first["name"], first["rx_frames"], first["tx_bytes"]) == ("p1", 9, 600)
    assert first["drops"] == {"malformed": 1, "queue_full": 2}
    assert api("GET", "/stats/ledger") == ports["ledger"]
    ledger = ports["ledger"]
    income = sum(ledger[name] for name in ("rx_frames", "copies", "segments", "originated"))
    outgo = sum(ledger[name] for name in ("tx_frames", "drops", "consumed", "in_flight"))
    assert income == outgo == 18
    queues = api("GET", "/stats/queues")["items"]
    assert [(queue["port"], queue["id"]) for queue in queues] == [("p1", 0), ("p2", 0)]
    drops = api("GET", "/stats/drops")["items"]
    assert sum(item["frames"] for item in drops) == ledger["drops"]
    assert {item["direction"] for item in drops} == {"rx", "tx"}


def test_metrics(api: Api) -> None:
    api.bridge()
    api.port("p1")
    answer = api.http.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    lines = answer.text.splitlines()
    assert 'vswitch_port_rx_frames_total{port="p1"} 9.0' in lines
    assert 'vswitch_port_drops_total{direction="tx",port="p1",reason="queue_full"} 2.0' in lines
    assert "vswitch_ledger_in_flight 0.0" in lines
    assert "vswitch_forwarder_up 1.0" in lines
    promtool = shutil.which("promtool")
    assert promtool, "promtool is missing: apt-get install prometheus"
    checked = subprocess.run(
        [promtool, "check", "metrics"], input=answer.text, capture_output=True, text=True
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


def test_metrics_without_a_forwarder(make_api: Callable[..., Api]) -> None:
    api = make_api()
    api.forwarder.close()
    answer = api.http.get("/metrics")
    assert answer.status_code == 200
    assert "vswitch_forwarder_up 0.0" in answer.text


def test_fdb_pages_and_flushes(api: Api) -> None:
    api.bridge()
    api.port("p1")
    api.forwarder.rows = [
        FdbRow(f"02:00:00:00:00:{number:02x}", 0, "p1", False, number, 0) for number in range(5)
    ]
    page = api("GET", "/bridges/br0/fdb", limit=3)
    rest = api("GET", "/bridges/br0/fdb", limit=3, cursor=page["next_cursor"])
    assert [row["age_s"] for row in page["items"] + rest["items"]] == [0, 1, 2, 3, 4]
    assert rest["next_cursor"] is None
    assert page["items"][0] == {
        "bridge": "br0",
        "mac": "02:00:00:00:00:00",
        "vlan": 0,
        "port": "p1",
        "static": False,
        "age_s": 0,
        "moves": 0,
    }
    assert api("POST", "/bridges/br0/fdb/flush", {"port": "p1"}) == {"entries": 5}
    assert api("POST", "/bridges/br0/fdb/flush") == {"entries": 0}


def test_versions_and_capabilities(api: Api) -> None:
    assert api("GET", "/system/version")["forwarder_build"] == "fake"
    capabilities = api("GET", "/system/capabilities")
    missing = {item["type"]: item["reason"] for item in capabilities["port_types"]}
    assert {name for name, reason in missing.items() if reason} == {"netmap"}
    assert {"name": "ports", "value": 256} in capabilities["limits"]


def test_preflight_names_the_command(api: Api) -> None:
    api.bridge()
    api.port("p1", backend={"type": "af_packet", "ifname": "ct-absent"})
    peer = {"name": "ct-b", "netns": "ct-absent"}
    api.port("p2", backend={"type": "veth", "name": "ct-a", "peer": peer})
    found = api("GET", "/system/preflight")
    assert found["ok"] is False
    fixes = {item["code"]: item["fix"] for item in found["findings"]}
    assert fixes["NETNS_NOT_FOUND"] == "ip netns add ct-absent"
    assert "IFACE_NOT_FOUND" in fixes


@pytest.mark.root
def test_preflight_reads_a_real_interface(api: Api) -> None:
    subprocess.run(
        ["ip", "link", "add", "ct-pf0", "type", "veth", "peer", "name", "ct-pf1"], check=True
    )
    try:
        backend = {"type": "af_packet", "ifname": "ct-pf0"}
        api.port("p1", bridge=None, backend=backend, offload_policy="refuse")
        fixes = {item["code"]: item["fix"] for item in api("GET", "/system/preflight")["findings"]}
        assert fixes["IFACE_DOWN"] == "ip link set ct-pf0 up"
        assert fixes["OFFLOADS_ENABLED"].startswith("ethtool -K ct-pf1 tx off")
        subprocess.run(fixes["OFFLOADS_ENABLED"].split(), check=True)
        subprocess.run(fixes["IFACE_DOWN"].split(), check=True)
        codes = {item["code"] for item in api("GET", "/system/preflight")["findings"]}
        assert not codes & {"IFACE_DOWN", "OFFLOADS_ENABLED"}
    finally:
        subprocess.run(["ip", "link", "del", "ct-pf0"], check=True)


def test_the_token_file_is_the_truth(api: Api) -> None:
    """Private, kept over restarts; whoever replaces or removes it changes the token."""
    path = api.settings.token_file
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    first = api.token
    path.unlink()
    api.restart()
    assert api.token != first
    assert api.client(token=first).get(f"{API}/bridges").status_code == 401
    path.write_text("n" * 43 + "\n")
    api.restart()
    assert api.client(token="n" * 43).get(f"{API}/bridges").status_code == 200


def test_revisions_tell_what_changed(api: Api) -> None:
    api.bridge(mtu=1500)
    api("PATCH", "/bridges/br0", {"spec": {"mtu": 9000}})
    api("DELETE", "/bridges/br0")
    found = api("GET", "/revisions", limit=2)
    assert [item["number"] for item in found["items"]] == [3, 2]
    last = api("GET", "/revisions", limit=2, cursor=found["next_cursor"])
    assert [item["number"] for item in last["items"]] == [1]
    assert last["next_cursor"] is None
    diff = found["items"][1]["diff"][0]
    assert (diff["before"]["spec"]["mtu"], diff["after"]["spec"]["mtu"]) == (1500, 9000)
    assert found["items"][0]["diff"][0]["after"] is None


def test_old_revisions_go(make_api: Callable[..., Api]) -> None:
    api = make_api(revisions_max=3)
    for mtu in range(10):
        api("PUT", "/bridges/br0", {"spec": {"mtu": mtu}}, wait="none")
    assert [item["number"] for item in api("GET", "/revisions")["items"]] == [10, 9, 8]
    api.restart()
    api.wait_ready()
    assert api.bridge(mtu=99)["generation"] == 11
    assert api("GET", "/revisions/11")["actor"] == "token:admin"
