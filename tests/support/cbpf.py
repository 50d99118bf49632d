"""fastpath/src/cbpf.c for Python tests: programs as text, frames as bytes."""

from __future__ import annotations

from tests.support.core import core


class ProgramError(ValueError):
    """The text is no program that may run."""


def run(program: str, data: bytes, *, have: int | None = None) -> int:
    """Bytes of the frame that the program wants; ``have``: those that it is shown."""
    ffi, lib = core()
    shown = data if have is None else data[:have]
    wanted = ffi.new("uint32_t *")
    status = lib.shim_cbpf(program.encode(), shown, len(shown), len(data), wanted)
    if status < 0:
        raise ProgramError(program)
    return int(wanted[0])
