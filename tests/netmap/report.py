"""Checks and what is said about them: one line each.

    @check("N3", "ping passes netmap:IF*")
    def host_rings(world: World) -> str:
        ...
        return "20 of 20 answers"

A check returns what it saw, or raises. Lines are read by __main__.py on the other side of a
serial line, so nothing else is written there.
"""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

PASSED, FAILED, END = "passed", "FAILED", "end"

World = TypeVar("World")


@dataclass(frozen=True)
class Check(Generic[World]):
    item: str
    what: str
    run: Callable[[World], str]


def say(line: str) -> None:
    descriptor = int(os.environ.get("REPORT_FD", "1"))
    os.write(descriptor, line.replace("\n", " | ").encode() + b"\n")


def note(line: str) -> None:
    """For the console only."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def run_all(checks: Sequence[Check[World]], world: World) -> None:
    for check in checks:
        began = time.monotonic()
        note(f"\n== {check.item} {check.what}")
        try:
            result, detail = PASSED, check.run(world)
        except Exception as error:
            traceback.print_exc()
            result, detail = FAILED, f"{type(error).__name__}: {error}"
        note(f"== {check.item} {result}: {detail}")
        say(f"{result} {check.item} {check.what}: {detail} ({time.monotonic() - began:.0f} s)")
    say(END)
