"""Generated rule sets, ClassBench's files, and the table of what rules cost."""

from __future__ import annotations

import gzip
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from tests.bench import rules, rulesets
from tests.bench.rulesets import FiveTuple


@pytest.mark.parametrize("shape", rulesets.SHAPES)
def test_a_set_is_the_same_again_and_of_different_rules(shape: str) -> None:
    once, again = (rulesets.generate(shape, 1_000, seed=7) for _ in range(2))
    assert once == again
    assert len(set(once)) == len(once) == 1_000
    assert rulesets.generate(shape, 1_000, seed=8) != once


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_what_is_written_is_read(tmp_path: Path, suffix: str) -> None:
    made = rulesets.generate("ipc", 200)
    path = tmp_path / "rules"
    rulesets.write(made, path)
    if suffix:
        packed = tmp_path / "rules.gz"
        packed.write_bytes(gzip.compress(path.read_bytes()))
        path = packed
    assert rulesets.read(path) == made


def test_a_line_of_classbench(tmp_path: Path) -> None:
    path = tmp_path / "set"
    path.write_text("@1.2.3.4/30\t0.0.0.0/0\t0 : 65535\t20 : 23\t0x11/0xFF\t0x0000/0x0000\t\n")
    wanted = FiveTuple(
        IPv4Network("1.2.3.4/30"), IPv4Network("0.0.0.0/0"), (0, 65535), (20, 23), 17
    )
    assert rulesets.read(path) == [wanted]
    path.write_text("@1.2.3.4/30 any\n")
    with pytest.raises(ValueError, match="not a ClassBench rule"):
        rulesets.read(path)


def row(count: int, frame: float, hit: float, miss: float) -> rules.Row:
    return rules.Row(
        *("acl", count, 9, 10**6, 20.0, 1.0, 2.0, frame),
        *({"1000": hit, "10000": hit, "100000": hit}, miss, hit, 50.0, 9e4),
    )


def test_what_is_wanted_is_compared_with_what_was_found() -> None:
    good = list(rules.verdicts([row(10_000, 20, 39, 210), row(10_000, 20, 38, 220)]))
    assert [line.rsplit(maxsplit=1)[-1] for line in good if "wanted" in line] == ["met"] * 4
    bad = list(rules.verdicts([row(10_000, 20, 41, 230), row(10_000, 20, 41, 700)]))
    assert [line.rsplit(maxsplit=1)[-1] for line in bad if "wanted" in line] == [
        *("MISSED", "MISSED", "MISSED", "met")
    ]
    assert not list(rules.text([]))
