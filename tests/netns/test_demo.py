"""``make demo`` works, ends clean, and does what the README says."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

TOP = Path(__file__).parent.parent.parent
DEMO = TOP / "docs/examples/demo"
TIMEOUT_S = 120.0

root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def appliance_processes() -> set[int]:
    """Processes of any appliance whose directories are a demonstration's."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                line = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if b"/tmp/vswitch-demo." in line:
                found.add(int(entry.name))
    return found


def wait_gone(before: set[int]) -> None:
    deadline = time.monotonic() + 30
    while appliance_processes() - before:
        assert time.monotonic() < deadline, "processes of the demonstration are left"
        time.sleep(0.1)


def directories() -> set[Path]:
    return set(Path("/tmp").glob("vswitch-demo.*"))


@pytest.mark.root
@root
def test_demo_runs_and_leaves_nothing() -> None:
    processes, left = appliance_processes(), directories()
    done = subprocess.run([DEMO], capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"5 packets transmitted, 5 received, 0% packet loss", done.stdout)
    rates = re.findall(r"([\d.]+) ([MG])bits/sec.*receiver", done.stdout)
    assert len(rates) == 2
    assert all(unit == "G" or float(rate) > 100 for rate, unit in rates), rates
    sides = re.search(r"^(\d+) = (\d+)$", done.stdout, re.MULTILINE)
    assert sides is not None
    assert int(sides[1]) == int(sides[2]) > 0
    wait_gone(processes)
    assert directories() == left


@pytest.mark.root
@root
def test_demo_cleans_up_after_ctrl_c() -> None:
    processes, left = appliance_processes(), directories()
    with subprocess.Popen(
        [DEMO], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    ) as demo:
        assert demo.stdout is not None
        for line in demo.stdout:
            if line.startswith("== ping"):
                break
        else:
            pytest.fail("the demonstration ended early")
        # As a terminal does it: to the whole foreground group.
        os.killpg(demo.pid, signal.SIGINT)
        demo.stdout.read()
        assert demo.wait(TIMEOUT_S) == 130
    wait_gone(processes)
    assert directories() == left


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
