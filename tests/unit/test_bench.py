"""What a benchmark found is written down as it was found, and held against what is committed."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.bench import baseline, docs, machine, peers, plots, results, table
from tests.bench.cases import Sample
from tests.bench.catalogue import CASES, SUBJECTS
from tests.bench.results import Result
from tests.bench.runner import names_of
from tests.support.probes import ROOT

QUIET = {"core_to_core_ns": 60.0, "away_percent": 0.5}
RUN = {
    "date": "2026-01-01",
    "command": "python -m tests.bench",
    "machine": {
        "cpu": "a processor",
        "cpus": 2,
        "memory_gib": 4.0,
        "system": "a system",
        "kernel": "6.1",
    },
    "load_before": [0.5],
    "load_after": [1.5],
    "noise_before": QUIET,
    "noise_after": {"core_to_core_ns": 200.0, "away_percent": 30.0},
    "rounds": 2,
    "seconds": 1.0,
}


def sample(value: float, **detail: float) -> Sample:
    every = {"offered_frames_per_s": 2e6, "lost": 0, "duplicates": 0, "reordered": 0}
    cpu = {"receiver_drops": 0, "system_ns_per_frame": 900.0, "switch_ns_per_frame": 0.0}
    return Sample(value, {**every, **cpu, **detail})


def result(
    target: float | None = None, *, higher_is_better: bool = True, name: str = "a case"
) -> Result:
    ours = [sample(1e6, lost=7, drops_tap_queue=7, switch_ns_per_frame=400.0), sample(3e6)]
    return Result(
        *(name, "frames/s", "us", {"them": target}, higher_is_better),
        samples={"us": ours, "them": [sample(2e6), sample(2e6)]},
    )


def report(*found: Result) -> dict[str, Any]:
    return {"runs": [RUN], "cases": [{**one.as_json(), "run": 0} for one in found]}


def rows_of(*found: Result) -> list[dict[str, str]]:
    header, *rows = table.rows(report(*found)["cases"])
    return [dict(zip(header, row, strict=True)) for row in rows]


def test_every_case_names_subjects_that_exist() -> None:
    names = [case.name for case in CASES]
    assert len(set(names)) == len(names)
    for case in CASES:
        assert set(names_of(case)) <= set(SUBJECTS), case.name
        assert case.ours.startswith("vswitch "), case.name
        assert not any(peer.startswith("vswitch ") for peer in case.peers), case.name


def test_what_peers_need_is_what_setup_installs() -> None:
    text = (ROOT / ".ci" / "setup").read_text()
    lists = re.findall(r"^(?:test|peer)_packages=\(([^)]*)\)", text, re.MULTILINE)
    installed = {name for words in lists for name in words.split()}
    assert {name for peer in peers.PEERS.values() for name in peer.packages} <= installed


def test_a_package_is_missing_when_its_program_is() -> None:
    wanted = {"coreutils": "true", "no-such-package": "no-such-program", "other": "/no/such/file"}
    assert peers.missing(wanted) == ["no-such-package", "other"]


def test_a_ratio_is_taken_round_by_round_and_above_one_where_we_are_better() -> None:
    assert result().ratios("them") == [0.5, 1.5]
    assert result(higher_is_better=False).ratios("them") == [2.0, 2 / 3]
    beside = result(0.9).beside("them")
    assert beside == {"median": 1.0, "min": 0.5, "max": 1.5, "target": 0.9, "met": True}


def test_a_peer_that_reaches_nothing_is_surpassed_and_one_without_samples_is_no_peer() -> None:
    nothing = Result(
        *("a case", "Gbit/s", "us", {"them": 5.0, "others": 1.0}),
        samples={"us": [Sample(3.0)], "them": [Sample(0.0)]},
        left_out={"others": "not installed: a-package"},
    )
    assert nothing.as_json()["ratios"] == {"them": {"median": None, "target": 5.0, "met": True}}
    us, them, others = rows_of(nothing)
    assert us["ratio (min to max)"] == ""
    assert them["ratio (min to max)"] == "it reached nothing"
    assert (others["subject"], others["ratio (min to max)"]) == ("others", "left out")
    assert others["notes"] == "not installed: a-package"
    assert not table.failures(report(nothing)["cases"])


@pytest.mark.parametrize(
    ("target", "met", "said"),
    [(None, None, ""), (0.9, True, ">= 0.90 met"), (1.1, False, ">= 1.10 MISSED")],
)
def test_only_a_target_that_was_set_is_met_or_missed(
    target: float | None, met: bool | None, said: str
) -> None:
    one = result(target)
    assert one.as_json()["ratios"]["them"]["met"] is met
    us, them = rows_of(one)
    assert them["wanted"] == said
    assert them["ratio (min to max)"] == "1.00 (0.50 to 1.50)"
    assert us["CPU (switch)"] == "900 (200) ns/frame"
    assert them["CPU (switch)"] == "900 ns/frame"


def test_what_is_wanted_of_ours_alone_is_a_limit() -> None:
    one = Result(
        *("ping", "µs", "us", {}, False, {"value": 25.0, "p99_us": 45.0}),
        samples={"us": [Sample(20.0, {"p99_us": 50.0, "p99_9_us": 70.0})]},
    )
    (us,) = rows_of(one)
    assert us["wanted"] == "µs <= 25 met, p99 <= 45 MISSED"
    assert us["notes"] == "p99 50 µs, p99.9 70 µs"
    assert table.missed(report(one)["cases"]) == ["ping: p99_us 50, wanted 45 at most"]


def test_the_page_gets_every_case_and_its_losses_and_keeps_its_text(tmp_path: Path) -> None:
    page = tmp_path / "performance.md"
    page.write_text(f"before\n{docs.BEGIN}\nold figures\n{docs.END}\nafter\n")
    failed = Result("broken", "frames/s", "us", {"them": None}, error="no interface")
    docs.write(report(result(1.1), failed), page)
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "old figures" not in text
    assert "| a case | us | 2.000 M/s |" in text
    assert "| a case | them | 2.000 M/s | 1.00 (0.50 to 1.50) | >= 1.10 MISSED |" in text
    assert "| a case | us | 2.00 | 2.00 | 4 | 0 | 0 | tap_queue 4 | 0 |" in text
    assert "* a case beside them: 1.00, wanted 1.10\n" in text
    assert "| broken |  |  | failed |  |  | no interface |" in text
    assert "core to core 200 ns, 30.0 % of time away (not quiet)" in text


def test_the_page_shows_the_pictures_that_were_drawn(tmp_path: Path) -> None:
    assert set(plots.TITLES) == set(plots.PICTURES)
    text = docs.figures(report(result()), [tmp_path / "ratios.png"])
    assert f"![{plots.TITLES['ratios']}](plots/ratios.png)\n" in text
    assert "![" not in docs.figures(report(result()))


def test_a_page_without_marks_is_left_alone(tmp_path: Path) -> None:
    page = tmp_path / "performance.md"
    page.write_text("text\n")
    with pytest.raises(ValueError, match="does not hold"):
        docs.write(report(result()), page)
    assert page.read_text() == "text\n"


# --- what is committed ----------------------------------------------------------------------------


def scaled(by: float, name: str = "a case") -> Result:
    """Rounds of 0.98 and 1.02 times a ratio of `by`."""
    ours = [Sample(0.98 * by), Sample(1.02 * by)]
    return Result(
        *(name, "Gbit/s", "us", {"them": None}),
        samples={"us": ours, "them": [Sample(1.0), Sample(1.0)]},
    )


@pytest.mark.parametrize(("now", "reported"), [(1.2, False), (0.86, False), (0.84, True)])
def test_a_ratio_fifteen_per_cent_lower_is_reported(now: float, reported: bool) -> None:
    found = list(baseline.regressions(report(scaled(now)), report(scaled(1.0))))
    assert bool(found) is reported
    if reported:
        assert str(found[0]) == (
            "a case beside them: 1.00 before, 0.84 now (-16 %; beyond both spreads)"
        )


def test_spreads_that_overlap_are_told_apart() -> None:
    (found,) = baseline.regressions(report(result()), report(scaled(1.3)))
    assert not found.beyond_spread
    assert "the spreads of both runs overlap" in str(found)


def test_what_is_new_or_reached_nothing_is_no_regression() -> None:
    nothing = report(Result("a case", "Gbit/s", "us", {"them": None}))
    assert not list(baseline.regressions(report(scaled(0.1, "new")), report(scaled(1.0))))
    assert not list(baseline.regressions(nothing, report(scaled(1.0))))


def test_a_run_of_some_cases_replaces_those_and_forgets_runs_without_figures() -> None:
    first = baseline.merged(report(scaled(1.0, "a"), scaled(1.0, "b")), None)
    later = {**report(scaled(2.0, "b")), "order": ["a", "b"]}
    both = baseline.merged(later, first)
    assert [(case["name"], case["run"]) for case in both["cases"]] == [("a", 0), ("b", 1)]
    assert both["cases"][1]["ratios"]["them"]["median"] == 2.0
    assert len(both["runs"]) == 2
    all_new = {**report(scaled(3.0, "b"), scaled(3.0, "a")), "order": ["a", "b"]}
    newest = baseline.merged(all_new, both)
    assert [(case["name"], case["run"]) for case in newest["cases"]] == [("a", 0), ("b", 0)]
    assert len(newest["runs"]) == 1
    assert "rounds" not in json.dumps([case["subjects"] for case in newest["cases"]])


def test_sections_are_replaced_whole() -> None:
    old = {
        **report(scaled(1.0)),
        "rules": {"run": 0, "rows": [1]},
        "netmap": {"run": 0, "rows": [2]},
    }
    new = {**report(), "rules": {"run": 0, "rows": [3]}}
    both = baseline.merged(new, old)
    assert both["rules"] == {"run": 1, "rows": [3]}
    assert both["netmap"] == {"run": 0, "rows": [2]}


def test_a_report_is_written_as_it_was_found(tmp_path: Path) -> None:
    path = tmp_path / "new" / "report.json"
    results.write_json(report(scaled(1.0)), path)
    assert baseline.read(path) == report(scaled(1.0))
    assert baseline.read(tmp_path / "none.json") is None


def test_the_noisier_measurement_counts() -> None:
    noisy = {"core_to_core_ns": 50.0, "away_percent": 9.0}
    assert machine.worse(QUIET, noisy) == {"core_to_core_ns": 60.0, "away_percent": 9.0}
    assert machine.words(QUIET) == "core to core 60 ns, 0.5 % of time away (quiet)"
