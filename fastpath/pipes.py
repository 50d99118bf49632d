"""The memory of pipes: made by the first end, shared by the second, gone with the last.

Nothing is remembered here. The keeper holds a bundle for each end, and each has fds of its own of
the same memory; so the other end's bundle is where a new end finds it, after the death of a
forwarder or of the keeper as well.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping

from fastpath.channel import Bundle

PIPE = "pipe"
ENDS = ("master", "slave")
GEOMETRY = ("queues", "slots")

# A user's pipe, or the one between a switch "vale0" and its port "p1".
_NAME = re.compile(r"[A-Za-z0-9_]{1,31}|vale[A-Za-z0-9_]{0,11}:[A-Za-z0-9_]{1,15}")

Held = tuple[Bundle, list[int]]


class PipeError(Exception):
    """``code`` is the API's, the message one sentence."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def problem(options: Mapping[str, str]) -> str:
    """ "" or what is wrong with the options of a pipe's end."""
    if not _NAME.fullmatch(options.get("name", "")):
        return f"{options.get('name', '')[:40]!r} is no name of a pipe"
    if options.get("end") not in ENDS:
        return f"the end of a pipe is master or slave, not {options.get('end', '')[:40]!r}"
    return ""


def share(options: Mapping[str, str], held: Collection[Held]) -> tuple[list[int], str] | None:
    """Copies of the other end's fds and its state; None: there is no other end."""
    ends = {
        bundle.options["end"]: (bundle, fds)
        for bundle, fds in held
        if bundle.type == PIPE and bundle.options.get("name") == options["name"]
    }
    if options["end"] in ends:
        taken = ends[options["end"]][0]
        text = f"the {options['end']} end of pipe {options['name']} is port {taken.name}"
        raise PipeError("PORT_BUSY", text)
    for bundle, fds in ends.values():
        for word in GEOMETRY:
            if bundle.options.get(word) != options.get(word):
                text = f"port {bundle.name}, the other end of pipe {options['name']}, has other"
                raise PipeError("CONFLICT", f"{text} {word}")
        return _copies(fds), bundle.state
    return None


def _copies(fds: list[int]) -> list[int]:
    copies: list[int] = []
    try:
        for fd in fds:
            copies.append(os.dup(fd))
    except OSError as error:
        for fd in copies:
            os.close(fd)
        raise PipeError("FAILED", f"no more descriptors: {error.strerror}") from error
    return copies
