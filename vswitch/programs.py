"""Programs that use netmap, run on a switch of ours: can a library be put in front of them?

The loader of a dynamically linked program puts it there (LD_PRELOAD). It does not for programs
that have no loader, that have more rights than whoever runs them, or that another C library's
loader starts; :func:`obstacle` says which of those a program is.
"""

from __future__ import annotations

import mmap
import os
import shutil
import stat
import struct
from importlib import resources
from pathlib import Path

LIBRARY = "libvswitch-netmap.so"
SOCKET = "netmap.sock"

_SCRIPTS_DEEP = 5  # the kernel follows no more
_GLIBC_LOADER = "ld-linux"
_GO_MARK = b"\xff Go buildinf:"
_CAPABILITIES = "security.capability"

_ELF64 = struct.Struct("<16sHHIQQQIHHHHHH")
_PROGRAM_HEADER = struct.Struct("<IIQQQQQQ")
_PT_INTERP = 3
_CLASS_64 = 2
_LITTLE = 1


class ProgramError(Exception):
    """It cannot be run at all; ``exit_code`` is a shell's: 126, or 127 where there is none."""

    def __init__(self, text: str, exit_code: int) -> None:
        super().__init__(text)
        self.exit_code = exit_code


def library() -> Path:
    """The library that is preloaded; FileNotFoundError where it was not built."""
    with resources.as_file(resources.files("fastpath") / LIBRARY) as path:
        if not path.is_file():
            raise FileNotFoundError(path)
        return path


def find(program: str) -> Path:
    """As execvp finds it. ProgramError: there is none, or it may not be executed."""
    found = shutil.which(program)
    if found is not None:
        return Path(found)
    if "/" in program and Path(program).exists():
        raise ProgramError(f"{program} is not executable", 126)
    raise ProgramError(f"there is no program {program}", 127)


def environment(run_dir: Path, before: dict[str, str]) -> dict[str, str]:
    """``before``, with the library in front of what was preloaded already."""
    loaded = [str(library())]
    if already := before.get("LD_PRELOAD"):
        loaded.append(already)
    return {**before, "LD_PRELOAD": ":".join(loaded), "VSWITCH_RUN_DIR": str(run_dir.absolute())}


def obstacle(program: Path, deep: int = 0) -> str | None:
    """Why the library cannot be put in front of ``program``; None: it can."""
    try:
        with program.open("rb") as file:
            if file.read(2) == b"#!":
                line = file.readline(512).decode(errors="replace")
                return _script_obstacle(program, line.split(), deep)
            return _rights_obstacle(program) or _elf_obstacle(program)
    except PermissionError:
        return f"{program} cannot be read, so what it is cannot be said"
    except OSError as error:
        return f"{program}: {error.strerror}"


def _script_obstacle(script: Path, words: list[str], deep: int) -> str | None:
    if not words or deep >= _SCRIPTS_DEEP:
        return f"{script} names no interpreter that could be followed"
    interpreter = Path(words[0])
    reason = obstacle(interpreter, deep + 1)
    if reason is None and interpreter.name == "env":
        # env runs what it is told; its options and assignments are not programs
        named = [word for word in words[1:] if not word.startswith("-") and "=" not in word]
        found = shutil.which(named[0]) if named else None
        reason = obstacle(Path(found), deep + 1) if found else None
    return f"{script} is a script: {reason}" if reason else None


def _rights_obstacle(program: Path) -> str | None:
    """The loader preloads nothing into programs that gain rights."""
    about = program.stat()
    if about.st_mode & stat.S_ISUID and about.st_uid != os.geteuid():
        return f"{program} is setuid: the loader ignores LD_PRELOAD"
    if about.st_mode & stat.S_ISGID and about.st_gid != os.getegid():
        return f"{program} is setgid: the loader ignores LD_PRELOAD"
    if os.geteuid() != 0 and _has_capabilities(program):
        return f"{program} has file capabilities: the loader ignores LD_PRELOAD"
    return None


def _has_capabilities(program: Path) -> bool:
    try:
        return bool(os.getxattr(program, _CAPABILITIES))
    except OSError:
        return False


def _elf_obstacle(program: Path) -> str | None:
    content = program.read_bytes()[: _ELF64.size]
    if content[:4] != b"\x7fELF" or len(content) < _ELF64.size:
        return f"{program} is neither an ELF program nor a script"
    if (content[4], content[5]) != (_CLASS_64, _LITTLE) or _machine(program) != _machine(library()):
        return f"{program} is for another architecture than the library"
    interpreter = _interpreter(program)
    if interpreter is None:
        return (
            f"{program} is statically linked: there is no loader that could preload anything; "
            "link it with libvswitch-netmap.a"
        )
    loader = Path(interpreter).name
    if not loader.startswith(_GLIBC_LOADER):
        return f"{program} uses another C library ({loader})"
    if _is_go(program):
        return f"{program} is written in Go and asks the kernel without the C library"
    return None


def _machine(program: Path) -> int:
    with program.open("rb") as file:
        return int(_ELF64.unpack(file.read(_ELF64.size))[2])


def _interpreter(program: Path) -> str | None:
    """The loader that a program asks for; None: it is linked statically."""
    with program.open("rb") as file:
        header = _ELF64.unpack(file.read(_ELF64.size))
        at, size, count = header[5], header[9], header[10]
        for i in range(count):
            file.seek(at + i * size)
            raw = file.read(_PROGRAM_HEADER.size)
            if len(raw) < _PROGRAM_HEADER.size:
                break
            segment = _PROGRAM_HEADER.unpack(raw)
            if segment[0] == _PT_INTERP:
                file.seek(segment[2])
                return file.read(min(segment[5], 4096)).rstrip(b"\0").decode(errors="replace")
    return None


def _is_go(program: Path) -> bool:
    with (
        program.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
    ):
        return content.find(_GO_MARK) >= 0
