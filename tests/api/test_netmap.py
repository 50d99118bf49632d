"""netmap ports over REST: portspecs that are none, rings with two owners, what is said of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fastpath.protocol import Outcome
from tests.api.conftest import Api
from vswitch.services import interfaces, netmap


def port(api: Api, name: str, portspec: str, **options: Any) -> Any:
    spec = {"backend": {"type": "netmap", "portspec": portspec}}
    return api("PUT", f"/ports/{name}", {"spec": spec}, **options)


def condition(api: Api, name: str, kind: str) -> dict[str, Any] | None:
    found = api("GET", f"/ports/{name}")["status"]["conditions"]
    return next((item for item in found if item["type"] == kind), None)


@pytest.mark.parametrize(
    ("portspec", "said"),
    [
        ("eth0", "character 1: a portspec begins with netmap: or vale"),
        ("netmap:eth0-", "character 13: a ring is a number"),
        ("netmap:eth0@1@2", "character 15: double setting of the memory region"),
        ("netmap:eth0/q", "character 13: a flag is one of x z t r R T"),
        ("netmap:eth0@conf:rings=x", "character 24: a value is a number"),
        ("netmap:" + "x" * 600, "at most 511"),
        ("", "character 1: a portspec begins with netmap: or vale"),
    ],
)
def test_N1_a_bad_portspec_is_refused_with_its_place(api: Api, portspec: str, said: str) -> None:
    problem = port(api, "p1", portspec, expect=422)
    (error,) = problem["errors"]
    assert error["pointer"] == "/spec/backend/portspec"
    assert said in error["message"]
    assert "port/p1" not in api.forwarder.objects


@pytest.mark.parametrize(
    "portspec", ["netmap:eth0", "netmap:eth0*", "netmap:eth0-3/xR@1", "netmap:x{1", "vale0:p1"]
)
def test_N1_a_portspec_reaches_the_forwarder_as_it_is(api: Api, portspec: str) -> None:
    port(api, "p1", portspec)
    wire = api.forwarder.objects["port/p1"]
    assert wire.options == {"portspec": portspec}  # type: ignore[union-attr]
    assert api("GET", "/ports/p1")["spec"]["backend"]["portspec"] == portspec


@pytest.mark.parametrize(
    ("first", "second", "clash"),
    [
        ("netmap:eth0", "netmap:eth0", True),
        ("netmap:eth0", "netmap:eth0-1", True),
        ("netmap:eth0*", "netmap:eth0^0", True),
        ("netmap:eth0-1", "netmap:eth0-1/x", True),
        ("netmap:eth0^", "netmap:eth0^1", True),
        ("vale0:p1", "vale0:p1", True),
        ("netmap:x{1", "netmap:x{1", True),
        ("netmap:eth0", "netmap:eth0^", False),
        ("netmap:eth0-1", "netmap:eth0-2", False),
        ("netmap:eth0^0", "netmap:eth0^1", False),
        ("netmap:eth0-1/R", "netmap:eth0-1/T", False),
        ("netmap:eth0", "netmap:eth0/r", False),
        ("netmap:x{1", "netmap:x}1", False),
        ("netmap:eth0", "netmap:eth1", False),
    ],
)
def test_N8_a_ring_has_one_owner(api: Api, first: str, second: str, clash: bool) -> None:
    port(api, "p1", first)
    answer = port(api, "p2", second, expect=409 if clash else None)
    if clash:
        assert answer["errors"][0]["code"] == "PORT_BUSY"
        assert "p1" in answer["errors"][0]["message"]


def test_an_interface_serves_netmap_or_packet_sockets(api: Api) -> None:
    api.port("p1", None, backend={"type": "af_packet", "ifname": "eth0"})
    problem = port(api, "p2", "netmap:eth0", expect=409)
    assert problem["errors"][0]["code"] == "PORT_BUSY"


def test_without_the_module_the_port_says_so(api: Api) -> None:
    text = "there is no /dev/netmap: load the module netmap"
    api.forwarder.outcomes["port/p1"] = Outcome("NETMAP_ABSENT", text, "load the module netmap")
    port(api, "p1", "netmap:eth0")
    ready = condition(api, "p1", "Ready")
    assert ready is not None
    assert (ready["status"], ready["reason"]) == ("False", "NETMAP_ABSENT")
    assert ready["hint"] == "load the module netmap"
    types = {item["type"]: item for item in api("GET", "/system/capabilities")["port_types"]}
    assert not types["netmap"]["available"]
    assert "netmap" in types["netmap"]["reason"]


def test_N3_host_rings_alone_are_idle(api: Api) -> None:
    port(api, "p1", "netmap:eth0^")
    idle = condition(api, "p1", "HostRingsIdle")
    assert idle is not None
    assert (idle["status"], idle["reason"]) == ("True", "HOST_RINGS_IDLE")
    assert "netmap:eth0*" in idle["hint"]
    port(api, "p2", "netmap:eth0-0")
    assert condition(api, "p1", "HostRingsIdle") is None
    assert condition(api, "p2", "HostRingsIdle") is None


# --- preflight -----------------------------------------------------------------------------------


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An interface ct0 with four queues each way, and the module's parameters."""
    home = tmp_path / "machine"
    for queue in [*(f"rx-{i}" for i in range(4)), *(f"tx-{i}" for i in range(4))]:
        (home / "net/ct0/queues" / queue).mkdir(parents=True)
    (home / "net/ct0/mtu").write_text("1500\n")
    (home / "net/ct0/flags").write_text("0x1103\n")
    (home / "parameters").mkdir()
    for name, value in {
        "if_num": 100,
        "ring_num": 200,
        "buf_num": 163840,
        "buf_size": 2048,
    }.items():
        (home / "parameters" / name).write_text(f"{value}\n")
    monkeypatch.setattr(interfaces, "_SYS_NET", home / "net")
    monkeypatch.setattr(netmap, "_PARAMETERS", home / "parameters")
    return home


def memory_findings(api: Api) -> dict[str, dict[str, Any]]:
    found = api("GET", "/system/preflight")["findings"]
    return {item["code"]: item for item in found if item["code"].startswith("NETMAP_MEMORY")}


def test_the_modules_memory_is_compared_with_what_is_needed(api: Api, machine: Path) -> None:
    port(api, "p1", "netmap:ct0")
    assert memory_findings(api) == {}
    # ten rings of 1,024 slots, the host's two included, and five openings at most
    for parameter, enough in (("buf_num", 10240), ("ring_num", 10), ("if_num", 5)):
        path = machine / "parameters" / parameter
        before = path.read_text()
        path.write_text(f"{enough}\n")
        assert memory_findings(api) == {}
        path.write_text(f"{enough - 1}\n")
        found = memory_findings(api)[f"NETMAP_MEMORY({parameter})"]
        assert found["severity"] == "error"
        assert found["fix"] == f"echo {enough} > {path}"
        path.write_text(before)
    (machine / "net/ct0/mtu").write_text("9000\n")
    found = memory_findings(api)["NETMAP_MEMORY(buf_size)"]
    assert found["severity"] == "warning"
    assert found["fix"].startswith("echo 9018 > ")


def test_N12_preflight_speaks_of_netmap_interfaces(api: Api, machine: Path) -> None:
    port(api, "p1", "netmap:ct0")
    port(api, "p2", "netmap:ct9")

    def codes(name: str) -> dict[str, str]:
        found = api("GET", "/system/preflight")["findings"]
        return {i["code"]: i["severity"] for i in found if i["object"] == f"ports/{name}"}

    assert codes("p2") == {"IFACE_NOT_FOUND": "error"}
    assert codes("p1") == {"PROMISCUOUS": "info", "LINK_FLAP": "info"}
    (machine / "net/ct0/flags").write_text("0x1003\n")
    assert codes("p1") == {"NOT_PROMISCUOUS": "warning", "LINK_FLAP": "info"}
    (machine / "parameters").rename(machine / "unloaded")
    assert memory_findings(api) == {}
