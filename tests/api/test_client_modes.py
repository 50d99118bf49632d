"""`clients` of a bridge: where programs may be, and what direct mode is refused together with."""

from __future__ import annotations

from typing import Any

import pytest

from tests.api.conftest import Api

DIRECT = {"mode": "direct"}
HERE = {"type": "vale", "switch": "vale0", "port": "p1"}


def refusal(problem: Any) -> tuple[str, str, str]:
    """Status code's word, pointer and code of the one fault; it comes with a hint."""
    (fault,) = problem["errors"]
    assert problem["hint"]
    return problem["code"], fault["pointer"], fault["code"]


def ruleset(*attach: dict[str, str]) -> dict[str, Any]:
    return {"spec": {"attach": [{"direction": "ingress", **place} for place in attach]}}


@pytest.fixture
def direct(api: Api) -> Api:
    """A switch in direct mode with a declared port, and a bridge beside it."""
    api.bridge("vale0", clients=DIRECT)
    api.port("p", None, backend=HERE)
    api.bridge("br0")
    return api


def test_what_a_bridge_says(api: Api) -> None:
    plain = {"mode": "relay", "uids": [], "gids": []}
    assert api.bridge("br0")["spec"]["clients"] == plain
    api.port("p", None, backend=HERE)
    assert api("GET", "/bridges/vale0")["spec"]["clients"] == plain
    own = {"mode": "direct", "uids": [1000, 1001], "gids": [2000]}
    assert api.bridge("vale1", clients=own)["spec"]["clients"] == own
    patched = api("PATCH", "/bridges/vale1", {"spec": {"clients": {"uids": [7]}}})
    assert patched["spec"]["clients"] == {"mode": "direct", "uids": [7], "gids": [2000]}


def test_a_switch_that_says_something_of_programs_is_as_vale(api: Api) -> None:
    """What pkt-gen sends without options has no source, and arrives."""
    spec = api.bridge("vale0", clients={"uids": [1000]})["spec"]
    assert (spec["reserved_macs"], spec["fdb"]["ageing_s"]) == ("forward", 0)
    assert spec["fdb"]["max_entries"] == 8192
    said = {"clients": {"uids": [1000]}, "reserved_macs": "drop", "fdb": {"ageing_s": 60}}
    spec = api.bridge("vale0", **said)["spec"]
    assert (spec["reserved_macs"], spec["fdb"]["ageing_s"]) == ("drop", 60)
    plain = api.bridge("vale1")["spec"]
    patched = api("PATCH", "/bridges/vale1", {"spec": {"clients": {"uids": [7]}}})["spec"]
    assert patched["reserved_macs"] == plain["reserved_macs"] == "drop"


@pytest.mark.parametrize(
    ("clients", "pointer"),
    [
        ({"mode": "shared"}, "/spec/clients/mode"),
        ({"uids": [-1]}, "/spec/clients/uids/0"),
        ({"uids": [2**32 - 1]}, "/spec/clients/uids/0"),
        ({"gids": ["staff"]}, "/spec/clients/gids/0"),
        ({"gids": [5, 5]}, "/spec/clients/gids"),
        ({"users": []}, "/spec/clients/users"),
    ],
)
def test_what_it_cannot_say(api: Api, clients: dict[str, Any], pointer: str) -> None:
    problem = api("PUT", "/bridges/vale0", {"spec": {"clients": clients}}, expect=422)
    assert [fault["pointer"] for fault in problem["errors"]] == [pointer]


@pytest.mark.parametrize("name", ["br0", "vale-0", "vale" + "0" * 12])
def test_programs_have_a_name_for_a_switch_only(api: Api, name: str) -> None:
    body = {"spec": {"clients": {"uids": [1000]}}}
    problem = api("PUT", f"/bridges/{name}", body, expect=422)
    assert refusal(problem) == ("INVALID", "/spec/clients", "INVALID")
    # The default may be repeated: what was read can be written.
    read = api.bridge(name)["spec"]
    assert api("PUT", f"/bridges/{name}", {"spec": read})["spec"] == read


def test_the_kernels_switch_asks_nobody(api: Api) -> None:
    body = {"spec": {"engine": "vale", "clients": DIRECT}}
    problem = api("PUT", "/bridges/vale0", body, expect=422)
    assert refusal(problem) == ("VALE_LIMIT", "/spec/clients", "VALE_LIMIT")


@pytest.mark.parametrize("own", [{"vlan_filtering": True}, {"mtu": 1500}])
def test_what_the_bridge_itself_has_to_see(direct: Api, own: dict[str, Any]) -> None:
    (member,) = own
    problem = direct("PATCH", "/bridges/vale0", {"spec": own}, expect=409)
    assert refusal(problem) == ("CONFLICT", f"/spec/{member}", "CONFLICT")
    direct.bridge("vale1", **own)
    problem = direct("PATCH", "/bridges/vale1", {"spec": {"clients": DIRECT}}, expect=409)
    assert refusal(problem) == ("CONFLICT", "/spec/clients/mode", "CONFLICT")
    assert direct("GET", "/bridges/vale1")["spec"]["clients"]["mode"] == "relay"


@pytest.mark.parametrize("target", [{"bridge": "vale0"}, {"port": "p"}])
def test_rules_see_every_frame_or_are_refused(direct: Api, target: dict[str, str]) -> None:
    (kind,) = target
    body = ruleset({"bridge": "br0"}, target)
    problem = direct("PUT", "/rulesets/fw", body, expect=409)
    assert refusal(problem) == ("CONFLICT", f"/spec/attach/1/{kind}", "CONFLICT")
    direct("PATCH", "/bridges/vale0", {"spec": {"clients": {"mode": "relay"}}})
    direct("PUT", "/rulesets/fw", body)
    problem = direct("PATCH", "/bridges/vale0", {"spec": {"clients": DIRECT}}, expect=409)
    assert refusal(problem) == ("CONFLICT", "/spec/clients/mode", "CONFLICT")
    direct("DELETE", "/rulesets/fw")
    direct("PATCH", "/bridges/vale0", {"spec": {"clients": DIRECT}})


def test_a_monitor_sees_every_frame_or_is_refused(direct: Api) -> None:
    body = {"spec": {"bridge": "br0", "backend": {"type": "monitor", "port": "p"}}}
    problem = direct("PUT", "/ports/m", body, expect=409)
    assert refusal(problem) == ("CONFLICT", "/spec/backend/port", "CONFLICT")
    direct("PATCH", "/bridges/vale0", {"spec": {"clients": {"mode": "relay"}}})
    direct("PUT", "/ports/m", body)
    problem = direct("PATCH", "/bridges/vale0", {"spec": {"clients": DIRECT}}, expect=409)
    assert refusal(problem) == ("CONFLICT", "/spec/clients/mode", "CONFLICT")


def test_isolated_ports_are_not_reached_directly(direct: Api) -> None:
    problem = direct("PATCH", "/ports/p", {"spec": {"isolation_group": 3}}, expect=409)
    assert refusal(problem) == ("CONFLICT", "/spec/isolation_group", "CONFLICT")
    direct.bridge("vale1")
    direct.port("q", None, backend={**HERE, "switch": "vale1"}, isolation_group=3)
    problem = direct("PATCH", "/bridges/vale1", {"spec": {"clients": DIRECT}}, expect=409)
    assert refusal(problem) == ("CONFLICT", "/spec/clients/mode", "CONFLICT")


def test_a_port_brings_nobody_along_who_has_to_see_its_frames(direct: Api) -> None:
    direct.port("t", "br0")
    direct("PUT", "/rulesets/fw", ruleset({"port": "t"}))
    problem = direct("PATCH", "/ports/t", {"spec": {"bridge": "vale0"}}, expect=409)
    assert refusal(problem) == ("CONFLICT", "/spec/bridge", "CONFLICT")
    direct("PATCH", "/ports/t", {"spec": {"bridge": None}})
    moved = {"spec": {"bridge": None, "backend": {**HERE, "port": "p2"}}}
    problem = direct("PATCH", "/ports/t", moved, expect=409)
    assert refusal(problem) == ("CONFLICT", "/spec/backend/switch", "CONFLICT")


def test_the_other_side_of_a_joint_is_no_matter_of_the_switch(direct: Api) -> None:
    """A set at a port of br0 is asked in br0, whatever switch is behind it."""
    direct.port("j", "br0", backend={**HERE, "port": "p2"})
    direct("PUT", "/rulesets/fw", ruleset({"port": "j"}, {"bridge": "br0"}))
    direct.port("m", None, backend={"type": "monitor", "port": "j"})
    assert direct("GET", "/bridges/vale0")["spec"]["clients"]["mode"] == "direct"


@pytest.mark.usefixtures("home")
def test_preflight_names_a_directory_that_keeps_programs_out(api: Api) -> None:
    def found() -> list[Any]:
        findings = api("GET", "/system/preflight")["findings"]
        return [item for item in findings if item["code"] == "CLIENTS_SHUT_OUT"]

    api.bridge("vale0")
    run = api.settings.run_dir
    run.chmod(0o700)
    assert found() == []
    api.bridge("vale0", clients={"gids": [7]})
    (finding,) = found()
    assert (finding["object"], finding["fix"]) == ("bridges/vale0", f"chmod o+x {run}")
    run.chmod(0o701)
    assert found() == []


def test_rings_are_a_programs(api: Api) -> None:
    backend = {**HERE, "queues": 4}
    api.port("p", None, backend=backend)
    api.bridge("br0")
    problem = api("PATCH", "/ports/p", {"spec": {"bridge": "br0"}}, expect=422)
    assert refusal(problem) == ("INVALID", "/spec/backend/queues", "INVALID")
    api.bridge("vale9", engine="vale")
    body = {"spec": {"backend": {**backend, "switch": "vale9"}}}
    problem = api("PUT", "/ports/q", body, expect=422)
    assert refusal(problem) == ("VALE_LIMIT", "/spec/backend/queues", "VALE_LIMIT")
