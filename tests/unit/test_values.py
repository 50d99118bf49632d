"""Small values: merge patch, ranges, identifiers, listeners, hosts."""

from __future__ import annotations

import itertools
import uuid
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vswitch.api.guard import _Headers, check_host
from vswitch.auth import Authority, Peer, token_hash
from vswitch.control import Listener, StartError, parse_listener
from vswitch.kinds.backends import Pcap
from vswitch.problems import Problem
from vswitch.values import merge_patch, merge_ranges, uuid7


@pytest.mark.parametrize(
    ("target", "patch", "result"),
    [
        # RFC 7396, appendix A, those that are objects
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
        # a tagged union is replaced where its tag changes
        (
            {"x": {"type": "a", "n": 1}},
            {"x": {"type": "a", "m": 2}},
            {"x": {"type": "a", "n": 1, "m": 2}},
        ),
        ({"x": {"type": "a", "n": 1}}, {"x": {"type": "b"}}, {"x": {"type": "b"}}),
    ],
)
def test_merge_patch(target: Any, patch: Any, result: Any) -> None:
    assert merge_patch(target, patch) == result


vids = st.integers(1, 60)


@given(st.lists(st.tuples(vids, vids).map(sorted)))
def test_ranges_are_the_same_set_in_one_form(pairs: list[list[int]]) -> None:
    merged = merge_ranges(f"{first}-{last}" for first, last in pairs)
    wanted = {vid for first, last in pairs for vid in range(first, last + 1)}
    assert {vid for first, last in merged for vid in range(first, last + 1)} == wanted
    assert all(a[1] + 1 < b[0] for a, b in itertools.pairwise(merged))


def test_uuid7_sorts_by_time() -> None:
    made = [uuid7() for _ in range(100)]
    assert len(set(made)) == 100
    for text in made:
        parsed = uuid.UUID(text)
        assert (parsed.version, parsed.variant) == (7, uuid.RFC_4122)
    assert [text[:13] for text in made] == sorted(text[:13] for text in made)


@pytest.mark.parametrize(
    ("text", "listener", "beyond"),
    [
        ("127.0.0.1:80", Listener("127.0.0.1", 80), False),
        ("[::1]:0", Listener("::1", 0), False),
        ("localhost:1", Listener("localhost", 1), False),
        ("0.0.0.0:80", Listener("0.0.0.0", 80), True),
        ("[::]:80", Listener("::", 80), True),
        ("unix:/x/y", Listener(path=Path("/x/y")), False),
    ],
)
def test_listeners(text: str, listener: Listener, beyond: bool) -> None:
    assert parse_listener(text) == listener
    assert listener.beyond_loopback == beyond


@pytest.mark.parametrize("text", ["", "80", "host:80", "127.0.0.1:70000", "127.0.0.1:x", ":80"])
def test_listeners_that_are_none(text: str) -> None:
    with pytest.raises(StartError):
        parse_listener(text)


def test_two_hosts_in_one_request_are_none() -> None:
    with pytest.raises(Problem):
        check_host(_Headers([(b"host", b"localhost"), (b"Host", b"localhost")]), ())
    check_host(_Headers([(b"host", b"switch.example:443")]), ("switch.example",))


def test_who_is_trusted() -> None:
    authority = Authority([("eyes", token_hash("x" * 43), "viewer")], service_uid=64502)
    roles = [authority.of_peer(Peer(1, uid, uid)) for uid in (0, 64502, 1000)]
    assert [principal and principal.role for principal in roles] == ["admin", "admin", None]
    viewer = authority.of_token("x" * 43)
    assert viewer is not None
    assert [viewer.may(method) for method in ("GET", "PUT", "DELETE")] == [True, False, False]
    assert authority.of_token("\udc80") is None


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/a", ".a", "a\0", "a\n"])
def test_pcap_files_stay_in_their_directory(name: str) -> None:
    with pytest.raises(ValueError, match=r"pattern|characters"):
        Pcap.model_validate({"type": "pcap", "in": name})
