"""Runs the netmap programs of tests/programs on a switch, as ``vswitch netmap-run`` would.

with NetmapPrograms(appliance.home / "run") as programs:
    receiver = programs.start("receive", "vale0:b", frames=1000)
    programs.start("send", "vale0:a", frames=1000).result()
    assert receiver.result()["frames"] == 1000
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

from tests.support.probes import tool
from tests.support.topology import end_process, first_line
from vswitch import programs

LINKED = "nmlinked"  # has the library linked to it


class NetmapProgram:
    """One that runs; its port is open."""

    def __init__(self, argv: list[str], environment: dict[str, str], says_ready: bool) -> None:
        self.process = subprocess.Popen(
            argv, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        if says_ready and (line := first_line(self.process)) != "ready":
            said = self.process.communicate(timeout=10)[1]
            raise RuntimeError(f"{argv}: {line}{said}")

    def result(self, timeout_s: float = 70) -> dict[str, Any]:
        """What it counted; RuntimeError when it failed. It ends by itself within a minute."""
        out, said = self.process.communicate(timeout=timeout_s)
        if self.process.returncode != 0:
            raise RuntimeError(f"{self.process.args}: {self.process.returncode}: {said}")
        lines = out.strip().splitlines()
        report: dict[str, Any] = json.loads(lines[-1]) if lines else {}
        return report

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate(timeout=10)


class NetmapPrograms:
    """Programs that use the switch of a run directory; ended when the block is left."""

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir
        self._started: list[NetmapProgram] = []

    def __enter__(self) -> NetmapPrograms:
        return self

    def __exit__(self, *_: object) -> None:
        for program in self._started:
            end_process(program.process)

    def start(
        self, what: str, *ports: str, says_ready: bool = True, linked: bool = False, **options: Any
    ) -> NetmapProgram:
        """``what`` with its ports, and options in the program's spelling (pause_us: --pause-us)."""
        environment = {**os.environ, "VSWITCH_RUN_DIR": str(self._run_dir)}
        if not linked:
            environment = programs.environment(self._run_dir, environment)
        words = [tool(LINKED if linked else "nmtest", "programs"), what, *ports]
        for name, value in options.items():
            words += [f"--{name.replace('_', '-')}", str(value)]
        program = NetmapProgram(words, environment, says_ready)
        self._started.append(program)
        return program
