"""Analysis over REST: pages put together from portions, witnesses traced, what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from fastpath.protocol import Finding
from tests.api.conftest import Api

FRAME = bytes.fromhex("020000000002020000000001" + "88b5" + "00" * 46)


@pytest.fixture
def ruled(api: Api) -> Api:
    api.bridge()
    api.port("p1")
    api("PUT", "/rulesets/fw", {"spec": {}})
    return api


def shadowed(rule: str, in_port: str = "p1") -> Finding:
    return Finding("shadowed", rule, "first", FRAME, in_port, "new")


def never_hit(rule: str) -> Finding:
    return Finding("never_hit", rule, "", b"", "")


def rules_of(page: dict[str, Any]) -> list[str]:
    return [item["rule"] for item in page["items"]]


def test_a_finding_comes_with_its_witness(ruled: Api) -> None:
    ruled.forwarder.findings = {0: ((shadowed("late"), never_hit("idle")), 0)}
    page = ruled("GET", "/rulesets/fw/analysis")
    late, idle = page["items"]
    assert (late["kind"], late["rule"], late["by"]) == ("shadowed", "late", "first")
    assert late["message"] == "first comes first and takes every frame that late matches."
    assert late["witness"] == {
        "frame_hex": FRAME.hex(),
        "in_port": "p1",
        "state": "new",
        "verdict": "drop",
        "reason": "no_destination",
    }
    asked = ruled.forwarder.traced[-1]
    assert (asked.in_port, asked.frame, asked.state) == ("p1", FRAME, "new")
    assert (idle["kind"], idle["by"], idle["witness"]) == ("never_hit", None, None)
    assert (page["skipped"], page["next_cursor"]) == (1, None)


def test_a_witness_that_comes_in_nowhere_is_not_traced(ruled: Api) -> None:
    ruled.forwarder.findings = {0: ((shadowed("late", ""), shadowed("later", "gone")), 0)}
    for item in ruled("GET", "/rulesets/fw/analysis")["items"]:
        assert item["witness"]["verdict"] is None
        assert item["witness"]["frame_hex"] == FRAME.hex()


def test_pages_are_made_of_portions(ruled: Api) -> None:
    """A page ends within a portion, and the next one goes on there."""
    ruled.forwarder.findings = {
        0: (tuple(never_hit(f"a{n}") for n in range(3)), 7),
        7: ((), 8),
        8: (tuple(never_hit(f"b{n}") for n in range(2)), 0),
    }
    seen, cursor = [], None
    while True:
        more = {"cursor": cursor} if cursor else {}
        page = ruled("GET", "/rulesets/fw/analysis", limit=2, **more)
        seen.append(rules_of(page))
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert seen == [["a0", "a1"], ["a2", "b0"], ["b1"]]


def test_kinds_are_chosen(ruled: Api) -> None:
    ruled.forwarder.findings = {0: ((never_hit("idle"), shadowed("late")), 0)}
    assert rules_of(ruled("GET", "/rulesets/fw/analysis", kind="shadowed")) == ["late"]
    both = ruled("GET", "/rulesets/fw/analysis", kind=["shadowed", "never_hit"])
    assert rules_of(both) == ["idle", "late"]
    problem = ruled("GET", "/rulesets/fw/analysis", kind="odd", expect=422)
    assert problem["errors"][0]["pointer"] == "?kind"


def test_what_is_not_there(ruled: Api) -> None:
    assert ruled("GET", "/rulesets/none/analysis", expect=404)["code"] == "NOT_FOUND"
    for cursor in ("nonsense", "MQ", "LTEuMA"):
        problem = ruled("GET", "/rulesets/fw/analysis", cursor=cursor, expect=422)
        assert problem["code"] == "INVALID"
    ruled.forwarder.close()
    assert ruled("GET", "/rulesets/fw/analysis", expect=503)["code"] == "FASTPATH_DOWN"
