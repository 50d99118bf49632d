"""What a benchmark run found is written down as it was found."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bench import docs, results
from tests.bench.__main__ import SUBJECTS, names_of
from tests.bench.cases import CASES, Sample
from tests.bench.results import Result

MACHINE = {
    "cpu": "a processor",
    "cpus": 2,
    "memory_gib": 4.0,
    "system": "a system",
    "kernel": "6.1",
    "load_before": [0.5],
    "load_after": [1.5],
}


def sample(value: float, **detail: float) -> Sample:
    every = {"offered_frames_per_s": 2e6, "lost": 0, "duplicates": 0, "reordered": 0}
    cpu = {"receiver_drops": 0, "system_ns_per_frame": 900.0, "switch_ns_per_frame": 0.0}
    return Sample(value, {**every, **cpu, **detail})


def result(target: float | None = None, *, higher_is_better: bool = True) -> Result:
    ours = [sample(1e6, lost=7, drops_tap_queue=7, switch_ns_per_frame=400.0), sample(3e6)]
    return Result(
        *("a case", "frames/s", "us", "them", target, higher_is_better),
        {"us": ours, "them": [sample(2e6), sample(2e6)]},
    )


def report(*found: Result) -> dict[str, object]:
    return {
        "date": "2026-01-01",
        "command": "python -m tests.bench",
        "machine": MACHINE,
        "rounds": 2,
        "seconds": 1.0,
        "cases": [one.as_json() for one in found],
    }


def test_every_case_names_subjects_that_exist() -> None:
    names = [case.name for case in CASES]
    assert len(set(names)) == len(names)
    for case in CASES:
        assert set(names_of(case)) <= set(SUBJECTS), case.name
        assert case.ours.startswith("vswitch "), case.name
        assert not case.peer.startswith("vswitch "), case.name


def test_a_ratio_is_taken_round_by_round_and_above_one_where_we_are_better() -> None:
    assert result().ratios() == [0.5, 1.5]
    assert result(higher_is_better=False).ratios() == [2.0, 2 / 3]


@pytest.mark.parametrize(
    ("target", "met", "said"),
    [(None, None, ""), (0.9, True, ">= 0.90 met"), (1.1, False, ">= 1.10 MISSED")],
)
def test_only_a_target_that_was_set_is_met_or_missed(
    target: float | None, met: bool | None, said: str
) -> None:
    one = result(target)
    assert one.as_json()["target_met"] is met
    header, row = results.rows(report(one))
    assert row[header.index("wanted")] == said
    assert row[header.index("ratio (min to max)")] == "1.00 (0.50 to 1.50)"
    assert row[header.index("CPU ours")] == "900 (200) ns/frame"
    assert row[header.index("CPU peer")] == "900 ns/frame"


def test_the_page_gets_every_case_and_its_losses_and_keeps_its_text(tmp_path: Path) -> None:
    page = tmp_path / "performance.md"
    page.write_text(f"before\n{docs.BEGIN}\nold figures\n{docs.END}\nafter\n")
    failed = Result("broken", "frames/s", "us", "them", None, True, error="no interface")
    docs.write(report(result(1.1), failed), page)
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "old figures" not in text
    assert "| a case | 2.000 M/s | 2.000 M/s | 1.00 (0.50 to 1.50) |" in text
    assert "| a case | us | 2.00 | 2.00 | 4 | 0 | 0 | tap_queue 4 | 0 |" in text
    assert "Below what is wanted: a case." in text
    assert "Could not be measured: broken." in text


def test_a_page_without_marks_is_left_alone(tmp_path: Path) -> None:
    page = tmp_path / "performance.md"
    page.write_text("text\n")
    with pytest.raises(ValueError, match="does not hold"):
        docs.write(report(result()), page)
    assert page.read_text() == "text\n"
