"""What figures were measured on, and how quiet it was: a noisy machine is told by how long a cache
line takes from one processor to another, and by the share of time that a thread which wants to run
does not get (tests/bench/noise.c)."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.support.probes import tool
from tests.support.topology import run

NOISE_MS = 40
QUIET_AWAY_PERCENT = 2.0


def describe() -> dict[str, Any]:
    model = "unknown"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    release = "unknown"
    for line in Path("/etc/os-release").read_text().splitlines():
        if line.startswith("PRETTY_NAME="):
            release = line.partition("=")[2].strip('"')
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "cpu": model,
        "cpus": os.cpu_count(),
        "memory_gib": round(pages / 2**30, 1),
        "kernel": platform.release(),
        "system": release,
    }


def noise(ms: int = NOISE_MS) -> dict[str, float]:
    """core_to_core_ns: one way of a cache line between two processors, the median (0: there is one
    processor only). away_percent: of the time that threads on all processors wanted."""
    found: dict[str, float] = json.loads(run(tool("noise"), str(ms)))
    return found


def worse(first: Mapping[str, float], second: Mapping[str, float]) -> dict[str, float]:
    return {name: max(value, second[name]) for name, value in first.items()}


def words(found: Mapping[str, float]) -> str:
    """One sentence's worth of it."""
    away = found["away_percent"]
    quiet = "quiet" if away <= QUIET_AWAY_PERCENT else "not quiet"
    return f"core to core {found['core_to_core_ns']:.0f} ns, {away:.1f} % of time away ({quiet})"
