"""The report on the founding semantics says what ran, what failed and what nothing shows."""

from __future__ import annotations

import re
from pathlib import Path

from tests.support import semantics


def test_names_bear_ids() -> None:
    assert semantics.items_of("tests/ports/test_tun.py::test_T2_ping_across[tun-tap]") == ["T2"]
    assert semantics.items_of("test_P14_P15_before_bind") == ["P14", "P15"]
    assert semantics.items_of("tests/test_layers.py::test_c_includes") == []
    assert semantics.items_of("test_Tunnel_of_love") == []


def test_lines() -> None:
    outcomes = [
        ("a.py::test_T2_ping", "passed"),
        ("a.py::test_T2_tcp[x]", "passed"),
        ("a.py::test_T2_udp", "failed"),
        ("a.py::test_other", "failed"),
    ]
    (line,) = semantics.lines(outcomes, whole=False)
    assert line.startswith("T2 ")
    assert line.endswith(": 1 failed, 2 passed")
    everything = list(semantics.lines(outcomes, whole=True))
    assert len(everything) == 31
    assert line in everything
    silent = {said.split()[0] for said in everything if said.endswith(": no test")}
    assert silent == semantics.ITEMS.keys() - semantics.c_tests().keys() - {"T2"}


def test_the_document_names_each_item_and_files_that_exist() -> None:
    top = Path(__file__).parent.parent.parent
    rows = [line for line in (top / "docs/semantics.md").read_text().splitlines() if "| " in line]
    said = {row.split(" | ")[0].strip("| "): row.split(" | ")[1:] for row in rows[1:]}
    assert {item: columns[0] for item, columns in said.items()} == semantics.ITEMS
    for _, where in said.values():
        for path in re.findall(r"`([^`]+)`", where):
            assert (top / path).is_file(), path
