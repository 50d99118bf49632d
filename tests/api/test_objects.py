"""Bridges, ports and static entries: what a client writes, reads back and may rely on."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from fastpath.protocol import Outcome, WireBridge, WirePort
from tests.api.conftest import API, Api
from tests.support.topology import wait_until


def test_the_first_calls_of_everybody(api: Api) -> None:
    bridge = api("PUT", "/bridges/br0", {"spec": {}}, expect=201)
    assert bridge["generation"] == 1
    assert bridge["spec"]["fdb"] == {"learning": True, "ageing_s": 300, "max_entries": 8192}
    body = {"spec": {"bridge": "br0", "backend": {"type": "af_packet", "ifname": "veth-a"}}}
    port = api("PUT", "/ports/p1", body, expect=201)
    assert port["status"]["observed_generation"] == port["generation"] == 1
    ready = {item["type"]: item for item in port["status"]["conditions"]}["Ready"]
    assert (ready["status"], ready["reason"]) == ("True", "IN_FORCE")
    assert api("GET", "/bridges/br0")["status"]["ports"] == ["p1"]
    wire = api.forwarder.objects["port/p1"]
    assert isinstance(wire, WirePort)
    assert wire.options == {
        "ifname": "veth-a",
        "version": "2",
        "ring": "rx",
        "rxhash": "0",
        "queues": "1",
        "fanout": "hash",
        "fanout_rollover": "0",
        "fanout_defrag": "0",
        "filter": "",
        "qdisc_bypass": "0",
        "timestamp": "kernel",
    }


@pytest.mark.parametrize(
    ("written", "options"),
    [
        ({"type": "tap", "name": "t9"}, {"name": "t9", "queues": "1", "persistent": "0"}),
        ({"type": "tun", "name": "t%d"}, {"name": "t%d", "persistent": "0"}),
        (
            {"type": "tun", "name": "t9", "address": "2001:db8::/64"},
            {"name": "t9", "persistent": "0", "address": "2001:db8::/64"},
        ),
        ({"type": "memory"}, {}),
        ({"type": "null"}, {}),
        (
            {"type": "null", "generate": {"frames_per_s": 10, "bytes": 64, "macs": 3}},
            {"generate_frames_per_s": "10", "generate_bytes": "64", "generate_macs": "3"},
        ),
        ({"type": "pcap", "in": "a.pcap", "out": "b"}, {"in": "a.pcap", "out": "b", "loop": "0"}),
        (
            {"type": "veth", "name": "v0", "peer": {"name": "v1", "netns": "blue"}},
            {"name": "v0", "peer": "v1", "netns": "blue"},
        ),
    ],
)
def test_backends_read_back_and_compile(
    api: Api, written: dict[str, object], options: dict[str, str]
) -> None:
    read = api.port("p1", bridge=None, backend=written)["spec"]["backend"]
    assert {name: read[name] for name in written} == written
    wire = api.forwarder.objects["port/p1"]
    assert isinstance(wire, WirePort)
    assert (wire.type, wire.options) == (written["type"], options)


def test_putting_the_same_again_changes_nothing(api: Api) -> None:
    first = api("PUT", "/bridges/br0", {"spec": {"mtu": 1500}}, expect=201)
    applies = len(api.forwarder.applies)
    again = api("PUT", "/bridges/br0", {"spec": {"mtu": 1500}}, expect=200)
    assert again == first
    assert len(api.forwarder.applies) == applies
    changed = api("PUT", "/bridges/br0", {"spec": {}}, expect=200)
    assert (changed["generation"], changed["uid"]) == (2, first["uid"])


def test_preconditions(api: Api) -> None:
    body = {"spec": {}}
    api("PUT", "/bridges/br0", body, headers={"If-Match": "*"}, expect=412)
    api("PUT", "/bridges/br0", body, headers={"If-None-Match": "*"}, expect=201)
    api("PUT", "/bridges/br0", body, headers={"If-None-Match": "*"}, expect=412)
    etag = api.http.get(f"{API}/bridges/br0").headers["ETag"]
    assert etag == '"1"'
    change = {"spec": {"mtu": 9000}}
    api("PATCH", "/bridges/br0", change, headers={"If-Match": '"7"'}, expect=412)
    api("PATCH", "/bridges/br0", change, headers={"If-Match": etag}, expect=200)
    api("DELETE", "/bridges/br0", headers={"If-Match": etag}, expect=412)
    api("DELETE", "/bridges/br0", headers={"If-Match": '"9", "2"'}, expect=204)


def test_merge_patch(api: Api) -> None:
    api("PUT", "/bridges/br0", {"spec": {"mtu": 1500}, "labels": {"a": "1", "b": "2"}})
    patched = api(
        "PATCH", "/bridges/br0", {"spec": {"fdb": {"ageing_s": 10}}, "labels": {"a": None}}
    )
    assert patched["spec"]["mtu"] == 1500
    assert patched["spec"]["fdb"] == {"learning": True, "ageing_s": 10, "max_entries": 8192}
    assert patched["labels"] == {"b": "2"}
    problem = api("PATCH", "/bridges/br0", {"spec": {"mtu": None}}, expect=422)
    assert problem["errors"][0]["pointer"] == "/spec/mtu"
    api.port("p1")
    assert api("PATCH", "/ports/p1", {"spec": {"bridge": None}})["spec"]["bridge"] is None


def test_patching_a_backend(api: Api) -> None:
    api.port("p1", bridge=None, backend={"type": "af_packet", "ifname": "e0", "queues": 2})
    same = api("PATCH", "/ports/p1", {"spec": {"backend": {"type": "af_packet", "queues": 4}}})
    assert same["spec"]["backend"]["ifname"] == "e0"
    assert same["spec"]["backend"]["queues"] == 4
    other = api("PATCH", "/ports/p1", {"spec": {"backend": {"type": "tap", "name": "t0"}}})
    assert other["spec"]["backend"] == {
        "type": "tap",
        "name": "t0",
        "queues": 1,
        "persistent": False,
    }
    problem = api("PATCH", "/ports/p1", {"spec": {"backend": {"type": "veth"}}}, expect=422)
    assert {item["pointer"] for item in problem["errors"]} == {
        "/spec/backend/name",
        "/spec/backend/peer",
    }


def test_delete_says_who_refers_and_cascades(api: Api) -> None:
    api.bridge()
    api.port("p1")
    api("PUT", "/bridges/br0/fdb/02:00:00:00:00:01", {"spec": {"port": "p1"}})
    problem = api("DELETE", "/bridges/br0", expect=409)
    assert problem["code"] == "IN_USE"
    assert "ports/p1" in problem["errors"][0]["message"]
    assert api("DELETE", "/ports/p1", expect=409)["code"] == "IN_USE"
    api("DELETE", "/bridges/br0", cascade="true", expect=204)
    assert api("GET", "/ports")["items"] == []
    assert api.forwarder.objects == {}
    api("DELETE", "/bridges/br0", expect=404)


def test_lists_filter_and_page(api: Api) -> None:
    for index in range(7):
        labels = {"rack": "a" if index % 2 else "b"}
        body = {"spec": {"backend": {"type": "memory"}}, "labels": labels}
        api("PUT", f"/ports/p{index}", body)
    names: list[str] = []
    cursor = None
    while True:
        page = api("GET", "/ports", limit=3, **({"cursor": cursor} if cursor else {}))
        names += [item["name"] for item in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert names == [f"p{index}" for index in range(7)]
    found = api("GET", "/ports", label="rack=a")["items"]
    assert [item["name"] for item in found] == ["p1", "p3", "p5"]


def test_static_entries(api: Api) -> None:
    api.bridge(vlan_filtering=True, default_pvid=5)
    api.port("p1")
    made = api("PUT", "/bridges/br0/fdb/02:00:00:00:00:0A", {"spec": {"port": "p1"}}, expect=201)
    assert (made["mac"], made["bridge"]) == ("02:00:00:00:00:0a", "br0")
    assert list(api.forwarder.statics()) == ["static/br0/02:00:00:00:00:0a/5"]
    api("PATCH", "/bridges/br0", {"spec": {"default_pvid": 6}})
    assert list(api.forwarder.statics()) == ["static/br0/02:00:00:00:00:0a/6"]
    api("PATCH", "/bridges/br0", {"spec": {"vlan_filtering": False}})
    assert list(api.forwarder.statics()) == ["static/br0/02:00:00:00:00:0a/0"]
    problem = api("PUT", "/bridges/br0/fdb/02:00:00:00:00:0b", {"spec": {"port": "x"}}, expect=422)
    assert problem["code"] == "REFERENCE_NOT_FOUND"
    api("PUT", "/bridges/none/fdb/02:00:00:00:00:0b", {"spec": {"port": "p1"}}, expect=404)
    assert api("PATCH", "/ports/p1", {"spec": {"bridge": None}}, expect=409)["code"] == "IN_USE"
    api("DELETE", "/bridges/br0/fdb/02:00:00:00:00:0A", expect=204)
    assert api.forwarder.statics() == {}


def test_a_refusal_of_the_forwarder_is_a_condition(api: Api) -> None:
    api.bridge()
    api.forwarder.outcomes["port/p1"] = Outcome("IFACE_NOT_FOUND", "no eth9", "ip link show")
    body = {"spec": {"bridge": "br0", "backend": {"type": "af_packet", "ifname": "eth9"}}}
    port = api("PUT", "/ports/p1", body, expect=201)
    ready = port["status"]["conditions"][0]
    assert (ready["type"], ready["status"], ready["reason"], ready["hint"]) == (
        "Ready",
        "False",
        "IFACE_NOT_FOUND",
        "ip link show",
    )
    assert port["status"]["last_error"]["code"] == "IFACE_NOT_FOUND"
    assert "IFACE_NOT_FOUND" in {f["code"] for f in api("GET", "/system/preflight")["findings"]}
    del api.forwarder.outcomes["port/p1"]
    api.forwarder.tell("port/p1")

    def ready_now() -> bool:
        return bool(api("GET", "/ports/p1")["status"]["conditions"][0]["status"] == "True")

    wait_until(ready_now, 5, "the port is ready")
    after = api("GET", "/ports/p1")["status"]["conditions"][0]
    assert after["last_transition"] > ready["last_transition"]


def test_a_static_entry_that_is_not_in_force_says_so(api: Api) -> None:
    api.bridge()
    api.port("p1")
    key = "static/br0/02:00:00:00:00:01/0"
    api.forwarder.outcomes[key] = Outcome("FDB_FULL", "the table is full")
    path = "/bridges/br0/fdb/02:00:00:00:00:01"
    made = api("PUT", path, {"spec": {"port": "p1"}}, expect=201)
    ready = made["status"]["conditions"][0]
    assert (ready["status"], ready["reason"]) == ("False", "FDB_FULL")
    del api.forwarder.outcomes[key]
    wait_until(
        lambda: api("GET", path)["status"]["conditions"][0]["status"] == "True", 5, "it is in force"
    )


def test_a_write_waits_for_a_device_that_is_being_opened(api: Api) -> None:
    pending = Outcome("PENDING", "the keeper is opening the device")
    api.forwarder.outcomes["port/p1"] = pending
    body = {"spec": {"backend": {"type": "memory"}}}
    api("PUT", "/ports/p1", body, wait="none", expect=201)
    wait_until(lambda: "port/p1" in api.forwarder.objects, 5, "the port is applied")
    ready = api("GET", "/ports/p1")["status"]["conditions"][0]
    assert (ready["status"], ready["reason"]) == ("Unknown", "PENDING")
    del api.forwarder.outcomes["port/p1"]
    changed = api("PATCH", "/ports/p1", {"description": "x"}, expect=200)
    assert changed["status"]["conditions"][0]["status"] == "True"


def test_pending_writes_answer_202_and_where_to_look(make_api: Callable[..., Api]) -> None:
    api = make_api(wait_applied_ms=50)
    api.wait_ready()
    api.forwarder.close()
    answer = api.http.put(f"{API}/bridges/br0", json={"spec": {}})
    assert answer.status_code == 202
    assert answer.headers["Location"] == f"{API}/revisions/1"
    revision = api("GET", "/revisions/1")
    assert (revision["applied"], revision["actor"]) == (False, "token:admin")
    assert revision["diff"][0]["object"] == "bridges/br0"
    ready = answer.json()["status"]["conditions"][0]
    assert ready["status"] == "Unknown"
    assert api("GET", "/stats/ports", expect=503)["code"] == "FASTPATH_DOWN"
    assert api("GET", "/system/ready", expect=503)["code"] == "FASTPATH_DOWN"
    assert api("GET", "/bridges/br0")["generation"] == 1
    api.forwarder.listen()
    wait_until(lambda: api("GET", "/revisions/1")["applied"], 10, "the revision is applied")
    assert isinstance(api.forwarder.objects["bridge/br0"], WireBridge)
