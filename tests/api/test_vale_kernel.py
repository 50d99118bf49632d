"""Bridges whose engine is the kernel's VALE switch: what they take, refuse and show."""

from __future__ import annotations

from typing import Any

import pytest

from tests.api.conftest import Api


def test_N9_a_kernel_switch_is_said_in_full(api: Api) -> None:
    spec = api.bridge("vale0", engine="vale")["spec"]
    assert spec["fdb"] == {"learning": True, "ageing_s": 0, "max_entries": 1024}
    assert spec["reserved_macs"] == "forward"
    assert "bridge/vale0" not in api.forwarder.objects, "the kernel's business"


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"vlan_filtering": True}, "/spec/vlan_filtering"),
        ({"fdb": {"ageing_s": 300}}, "/spec/fdb/ageing_s"),
        ({"fdb": {"learning": False}}, "/spec/fdb/learning"),
        ({"fdb": {"max_entries": 8192}}, "/spec/fdb/max_entries"),
        ({"flood": {"broadcast": False}}, "/spec/flood"),
        ({"reserved_macs": "drop"}, "/spec/reserved_macs"),
        ({"mtu": 1500}, "/spec/mtu"),
    ],
)
def test_N9_what_a_kernel_switch_lacks_is_refused(
    api: Api, change: dict[str, Any], pointer: str
) -> None:
    body = {"spec": {"engine": "vale", **change}}
    problem = api("PUT", "/bridges/vale0", body, expect=422)
    assert [error["pointer"] for error in problem["errors"]] == [pointer]
    assert problem["errors"][0]["code"] == "VALE_LIMIT"


def test_N9_names_and_number_of_kernel_switches(api: Api) -> None:
    problem = api("PUT", "/bridges/br0", {"spec": {"engine": "vale"}}, expect=422)
    assert problem["errors"][0]["pointer"] == "/spec/engine"
    for number in range(8):
        api.bridge(f"vale{number}", engine="vale")
    problem = api("PUT", "/bridges/vale8", {"spec": {"engine": "vale"}}, expect=422)
    assert problem["errors"][0]["code"] == "VALE_LIMIT"


def test_N9_a_kernel_switch_takes_interfaces_only(api: Api) -> None:
    api.bridge("vale0", engine="vale")
    spec: dict[str, Any] = {"bridge": "vale0", "backend": {"type": "memory"}}
    problem = api("PUT", "/ports/p1", {"spec": spec}, expect=422)
    assert [error["pointer"] for error in problem["errors"]] == ["/spec/backend"]


def test_N9_the_engine_stays_while_ports_are_in_the_bridge(api: Api) -> None:
    api.bridge("vale0")
    api.port("p1", "vale0")
    body = {"spec": {"engine": "vale"}}
    problem = api("PUT", "/bridges/vale0", body, expect=409)
    assert problem["errors"][0]["code"] == "IN_USE"


def test_N9_the_kernels_table_is_not_ours_to_read(api: Api) -> None:
    api.bridge("vale0", engine="vale")
    assert api("GET", "/bridges/vale0/fdb", expect=422)["code"] == "VALE_LIMIT"


def test_N9_without_the_module_the_switch_says_so(api: Api) -> None:
    status = api.bridge("vale0", engine="vale")["status"]
    ready = next(item for item in status["conditions"] if item["type"] == "Ready")
    assert (ready["status"], ready["reason"]) == ("False", "NETMAP_ABSENT")
