"""``make demo`` works, ends clean, and does what the README says."""

from __future__ import annotations

import re

import pytest

from tests.support.examples import EXAMPLES, TOP, Example

DEMO = EXAMPLES / "demo"


@pytest.mark.root
def test_demo_runs_and_leaves_nothing() -> None:
    with Example("demo") as demo:
        assert demo.wait() == 0, demo.output
        demo.check_nothing_left()
        output = demo.output
    assert re.search(r"5 packets transmitted, 5 received, 0% packet loss", output)
    assert output.count("Packet filtered") == 3
    assert "fw/no-ping reject: matches" in output
    rates = re.findall(r"([\d.]+) ([MG])bits/sec.*receiver", output)
    assert len(rates) == 2
    assert all(unit == "G" or float(rate) > 100 for rate, unit in rates), rates
    sides = re.search(r"^(\d+) = (\d+)$", output, re.MULTILINE)
    assert sides is not None
    assert int(sides[1]) == int(sides[2]) > 0


@pytest.mark.root
def test_demo_cleans_up_after_ctrl_c() -> None:
    with Example("demo") as demo:
        demo.wait_output("== ping")
        demo.interrupt()
        assert demo.wait() == 130, demo.output
        demo.check_nothing_left()


def shell_lines(text: str) -> list[str]:
    """Commands of the README's first example that set the scene or configure."""
    blocks = re.findall(r"^```sh\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    return [
        line for block in blocks for line in block.splitlines() if re.match(r"(ip|curl.*PUT)", line)
    ]


def test_the_readme_shows_what_the_demo_does() -> None:
    lines = shell_lines((TOP / "README.md").read_text())
    assert any("ports/p1" in line for line in lines)
    demo = DEMO.read_text().splitlines()
    for line in lines:
        if not line.startswith("ip netns exec"):
            assert line in demo, f"{line!r} is not in {DEMO.relative_to(TOP)}"
