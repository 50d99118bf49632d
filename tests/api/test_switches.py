"""Pipes and VALE switches: what a client writes, and what it becomes for the forwarder."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from fastpath.protocol import Outcome, WireBridge, WirePort
from tests.api.conftest import API, Api
from tests.support.topology import wait_until


def pipe(name: str, end: str, **more: Any) -> dict[str, Any]:
    return {"type": "pipe", "name": name, "end": end, **more}


def vale(switch: str, port: str) -> dict[str, Any]:
    return {"type": "vale", "switch": switch, "port": port}


def wire_port(api: Api, name: str) -> WirePort:
    found = api.forwarder.objects[f"port/{name}"]
    assert isinstance(found, WirePort)
    return found


def refusal(api: Api, method: str, path: str, spec: dict[str, Any]) -> Any:
    """The codes of a problem, by pointer; 422 for what could never be, 409 for what is not now."""
    answer = api.http.request(method, f"{API}{path}", json={"spec": spec})
    problem = answer.json()
    details = {detail["pointer"]: detail["code"] for detail in problem["errors"]}
    assert answer.status_code == (422 if problem["code"] == "INVALID" else 409), answer.text
    assert problem["code"] in details.values()
    return details


def conditions(port: Any) -> dict[str, tuple[str, str]]:
    return {item["type"]: (item["status"], item["reason"]) for item in port["status"]["conditions"]}


# --- pipes ---------------------------------------------------------------------------------------


def test_the_two_ends_of_a_pipe(api: Api) -> None:
    api.bridge("br0")
    api.bridge("br1")
    api.port("m", "br0", backend=pipe("x", "master"))
    api.port("s", "br1", backend=pipe("x", "slave"))
    assert wire_port(api, "m").options == {"name": "x", "end": "master", "queues": "1"}
    assert wire_port(api, "s").options == {"name": "x", "end": "slave", "queues": "1"}


def test_an_end_is_one_port(api: Api) -> None:
    api.bridge("br0")
    api.bridge("br1")
    api.port("m", "br0", backend=pipe("x", "master", queues=2))
    again = {"bridge": "br1", "backend": pipe("x", "master", queues=2)}
    assert refusal(api, "PUT", "/ports/n", again) == {"/spec/backend": "PORT_BUSY"}
    fewer = {"bridge": "br1", "backend": pipe("x", "slave")}
    assert refusal(api, "PUT", "/ports/n", fewer) == {"/spec/backend/queues": "CONFLICT"}
    loop = {"bridge": "br0", "backend": pipe("x", "slave", queues=2)}
    assert refusal(api, "PUT", "/ports/n", loop) == {"/spec/bridge": "CONFLICT"}
    api.port("n", "br1", backend=pipe("x", "slave", queues=2))
    # Nor by moving one end to where the other one is.
    assert refusal(api, "PATCH", "/ports/n", {"bridge": "br0"}) == {"/spec/bridge": "CONFLICT"}


def test_preflight_names_a_lone_end(api: Api) -> None:
    api.bridge("br0")
    api.port("m", "br0", backend=pipe("x", "master", queues=2))
    found = {item["code"]: item for item in api("GET", "/system/preflight")["findings"]}
    assert found["PIPE_LONE"]["object"] == "ports/m"
    assert "-b name=x -b end=slave -b queues=2" in found["PIPE_LONE"]["fix"]
    api.port("s", None, backend=pipe("x", "slave", queues=2))
    found = {item["code"]: item for item in api("GET", "/system/preflight")["findings"]}
    assert "PIPE_LONE" not in found


@pytest.mark.parametrize(
    ("backend", "pointer"),
    [
        (pipe("", "master"), "/spec/backend/name"),
        (pipe("a-b", "master"), "/spec/backend/name"),
        (pipe("vale0:p", "master"), "/spec/backend/name"),
        (pipe("x" * 32, "master"), "/spec/backend/name"),
        (pipe("x", "middle"), "/spec/backend/end"),
        (pipe("x", "master", queues=17), "/spec/backend/queues"),
        (vale("vale0", "sixteen_is_too_m"), "/spec/backend/port"),
        (vale("vale0", "a-b"), "/spec/backend/port"),
        (vale("bridge0", "p"), "/spec/backend/switch"),
        (vale("vale-0", "p"), "/spec/backend/switch"),
        (vale("vale" + "0" * 12, "p"), "/spec/backend/switch"),
    ],
)
def test_names_that_netmap_would_not_have(api: Api, backend: dict[str, Any], pointer: str) -> None:
    assert list(refusal(api, "PUT", "/ports/p", {"backend": backend})) == [pointer]


# --- a switch's life -------------------------------------------------------------------------


def test_a_switch_comes_with_its_first_port_and_goes_with_its_last(api: Api) -> None:
    api.port("a", None, backend=vale("vale0", "one"))
    bridge = api("GET", "/bridges/vale0")
    assert (bridge["spec"]["origin"], bridge["spec"]["engine"]) == ("vale", "software")
    assert bridge["status"]["ports"] == ["a"]
    # As VALE: no ageing, nothing kept from the other ports.
    assert bridge["spec"]["fdb"]["ageing_s"] == 0
    assert bridge["spec"]["reserved_macs"] == "forward"
    wire = api.forwarder.objects["bridge/vale0"]
    assert isinstance(wire, WireBridge)
    assert (wire.ageing_s, wire.vlan_filtering, wire.reserved_forward) == (0, False, True)

    api.port("b", None, backend=vale("vale0", "two"))
    assert api("DELETE", "/bridges/vale0", expect=409)["code"] == "IN_USE"
    api("DELETE", "/ports/a")
    assert api("GET", "/bridges/vale0")["status"]["ports"] == ["b"]
    # Moved to another switch, it takes the old one along.
    api("PATCH", "/ports/b", {"spec": {"backend": vale("vale1", "two")}})
    assert [item["name"] for item in api("GET", "/bridges")["items"]] == ["vale1"]
    api("DELETE", "/bridges/vale1", cascade="true")
    assert api("GET", "/bridges")["items"] == api("GET", "/ports")["items"] == []
    assert api.forwarder.objects == {}


def test_a_switch_survives_the_control_plane(make_api: Callable[..., Api]) -> None:
    api = make_api()
    api.wait_ready()
    api.bridge("br0")
    api.port("a", "br0", backend=vale("vale0", "one"))
    before = dict(api.forwarder.objects)
    api.restart()
    api.wait_ready()
    assert api("GET", "/bridges/vale0")["spec"]["origin"] == "vale"
    assert api.forwarder.objects == before
    assert not any(apply.upserts for apply in api.forwarder.applies[2:])


def test_a_bridge_that_a_user_made_stays(api: Api) -> None:
    api.bridge("vale0")
    api.port("a", None, backend=vale("vale0", "one"))
    api("DELETE", "/ports/a")
    assert api("GET", "/bridges/vale0")["spec"]["origin"] == "user"


def test_who_made_a_bridge_cannot_be_changed(api: Api) -> None:
    assert refusal(api, "PUT", "/bridges/vale1", {"origin": "vale"}) == {"/spec/origin": "INVALID"}
    api.port("a", None, backend=vale("vale0", "one"))
    assert refusal(api, "PATCH", "/bridges/vale0", {"origin": "user"}) == {
        "/spec/origin": "INVALID"
    }
    read = api("GET", "/bridges/vale0")["spec"]
    assert api("PUT", "/bridges/vale0", {"spec": read})["spec"] == read
    assert api("PUT", "/bridges/vale0", {"spec": {"mtu": 1500}})["spec"]["origin"] == "vale"


def test_what_of_a_switch_may_be_changed(api: Api) -> None:
    api.bridge("br0")
    api.port("a", None, backend=vale("vale0", "one"))
    api("PATCH", "/bridges/vale0", {"spec": {"fdb": {"ageing_s": 60}, "mtu": 9000}})
    wire = api.forwarder.objects["bridge/vale0"]
    assert isinstance(wire, WireBridge)
    assert (wire.ageing_s, wire.mtu) == (60, 9000)
    assert refusal(api, "PATCH", "/bridges/vale0", {"vlan_filtering": True}) == {
        "/spec/vlan_filtering": "CONFLICT"
    }
    own = {"bridge": "vale0", "backend": vale("vale0", "two")}
    assert refusal(api, "PUT", "/ports/t", own) == {"/spec/bridge": "CONFLICT"}
    # Other ports may be in it. It goes with the last of all.
    api.port("t", "vale0")
    api("DELETE", "/ports/a")
    assert api("GET", "/bridges/vale0")["status"]["ports"] == ["t"]
    api("DELETE", "/ports/t")
    api("GET", "/bridges/vale0", expect=404)


# --- its ports -----------------------------------------------------------------------------------


def test_a_port_of_a_switch_is_one_port(api: Api) -> None:
    api.port("a", None, backend=vale("vale0", "one"))
    api.port("b", None, backend=vale("vale1", "one"))
    again = {"backend": vale("vale0", "one")}
    assert refusal(api, "PUT", "/ports/c", again) == {"/spec/backend": "PORT_BUSY"}


def test_a_port_in_a_bridge_joins_bridge_and_switch(api: Api) -> None:
    api.bridge("br0")
    api.port("a", "br0", backend=vale("vale0", "one"))
    ours, theirs = wire_port(api, "a"), wire_port(api, "vale0:one")
    assert (ours.type, ours.bridge, ours.options["end"]) == ("pipe", "br0", "master")
    assert (theirs.type, theirs.bridge, theirs.options["end"]) == ("pipe", "vale0", "slave")
    assert ours.options["name"] == theirs.options["name"] == "vale0:one"
    assert ours.options["block"] == theirs.options["block"] == "0"
    # Out of the bridge: a place for a netmap program.
    api("PATCH", "/ports/a", {"spec": {"bridge": None}})
    assert "port/vale0:one" not in api.forwarder.objects
    ours = wire_port(api, "a")
    assert (ours.type, ours.bridge) == ("client", "vale0")
    assert ours.options == {"name": "vale0:one", "tx_rings": "1", "rx_rings": "1"}
    # The bridge goes, with it the port, with that the switch.
    api("PATCH", "/ports/a", {"spec": {"bridge": "br0"}})
    api("DELETE", "/bridges/br0", cascade="true")
    assert api.forwarder.objects == {}


def test_a_program_finds_the_rings_that_its_port_has(api: Api) -> None:
    api.port("a", None, backend=vale("vale0", "one") | {"queues": 4})
    options = {"name": "vale0:one", "tx_rings": "4", "rx_rings": "4"}
    assert wire_port(api, "a").options == options


def test_a_static_entry_of_a_bridge_may_point_into_a_switch(api: Api) -> None:
    api.bridge("vale0")
    api.bridge("br0")
    api.port("a", "br0", backend=vale("vale0", "one"))
    for bridge, port in (("br0", "a"), ("vale0", "vale0:one")):
        api("PUT", f"/bridges/{bridge}/fdb/02:00:00:00:00:01", {"spec": {"port": "a"}})
        found = api.forwarder.objects[f"static/{bridge}/02:00:00:00:00:01/0"]
        assert getattr(found, "port", "") == port
    stranded = refusal(api, "PATCH", "/ports/a", {"bridge": None})
    assert stranded == {"/spec/bridge": "IN_USE"}


def test_a_port_is_ready_when_both_its_sides_are(api: Api) -> None:
    api.bridge("br0")
    api.port("a", "br0", backend=vale("vale0", "one"))
    api.forwarder.outcomes["port/vale0:one"] = Outcome("LIMIT", "256 ports are the limit")
    api.forwarder.tell("port/a")
    wait_until(
        lambda: conditions(api("GET", "/ports/a"))["Ready"] == ("False", "LIMIT"),
        5,
        "the switch's side is heard of",
    )


# --- the kernel's ---------------------------------------------------------------------------------


def test_a_switch_is_the_kernels_where_it_has_vale(make_api: Callable[..., Api]) -> None:
    """The same requests; a bridge that a user made before stays what it is."""
    api = make_api()
    api.wait_ready()
    assert api("GET", "/system/capabilities")["vale"] == "software"
    api.forwarder.port_types["netmap"] = ""
    api.forwarder.disconnect()
    wait_until(
        lambda: api("GET", "/system/capabilities")["vale"] == "kernel", 10, "it connects again"
    )
    api.wait_ready()
    api.bridge("br0")
    api.bridge("vale9")
    api.port("a", "br0", backend=vale("vale0", "one"))
    api.port("b", None, backend=vale("vale0", "two"))
    api.port("c", "br0", backend=vale("vale9", "one"))
    spec = api("GET", "/bridges/vale0")["spec"]
    assert (spec["engine"], spec["origin"]) == ("vale", "vale")
    assert set(api.forwarder.objects) == {
        *("bridge/br0", "bridge/vale9"),
        *("port/a", "port/c", "port/vale9:one"),
    }
    ours = wire_port(api, "a")
    assert (ours.type, ours.options, ours.bridge) == ("netmap", {"portspec": "vale0:one"}, "br0")
    assert wire_port(api, "c").type == "pipe"
