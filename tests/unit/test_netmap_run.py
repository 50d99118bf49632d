"""Which programs can be run on a switch of ours, and what is said of those that cannot."""

from __future__ import annotations

import os
import shutil
import socket
import struct
import sys
from pathlib import Path

import pytest

from vswitch import cli, programs

X86_64 = 62
RISCV = 243


def elf(path: Path, machine: int = X86_64, interpreter: bytes = b"", word_class: int = 2) -> Path:
    """As much of a program as is looked at."""
    ident = b"\x7fELF" + bytes([word_class, 1, 1]) + bytes(9)
    count = 1 if interpreter else 0
    header = struct.pack(
        "<16sHHIQQQIHHHHHH", ident, 2, machine, 1, 0, 64, 0, 0, 64, 56, count, 0, 0, 0
    )
    segment = struct.pack("<IIQQQQQQ", 3, 4, 120, 0, 0, len(interpreter), 0, 1) if count else b""
    path.write_bytes(header + segment + interpreter + bytes(64))
    path.chmod(0o755)
    return path


def script(path: Path, first_line: str) -> Path:
    path.write_text(f"{first_line}\n")
    path.chmod(0o755)
    return path


def test_ordinary_programs_can_be_run(tmp_path: Path) -> None:
    shell = programs.find("sh")
    assert programs.obstacle(shell) is None
    assert programs.obstacle(script(tmp_path / "a", "#!/bin/sh -e")) is None
    assert programs.obstacle(script(tmp_path / "b", "#!/usr/bin/env -S A=1 sh")) is None


@pytest.mark.parametrize(
    ("interpreter", "machine", "word_class", "said"),
    [
        (b"", X86_64, 2, "statically linked"),
        (b"/lib/ld-musl-x86_64.so.1\0", X86_64, 2, "another C library (ld-musl-x86_64.so.1)"),
        (b"/lib/ld-linux.so.2\0", X86_64, 1, "another architecture"),
        (b"/lib/ld-linux-riscv64.so.1\0", RISCV, 2, "another architecture"),
    ],
)
def test_a_program_without_our_loader_is_told_apart(
    tmp_path: Path, interpreter: bytes, machine: int, word_class: int, said: str
) -> None:
    program = elf(tmp_path / "program", machine, interpreter, word_class)
    assert said in str(programs.obstacle(program))
    # and so are scripts for it, however deep
    inner = script(tmp_path / "inner", f"#!{program}")
    assert said in str(programs.obstacle(script(tmp_path / "outer", f"#!{inner}")))


def test_a_program_that_gains_rights_gets_nothing_preloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = Path(shutil.copy("/bin/true", tmp_path / "true"))
    program.chmod(0o4755)
    assert programs.obstacle(program) is None, "its owner gains nothing"
    monkeypatch.setattr(os, "geteuid", lambda: program.stat().st_uid + 1)
    assert "setuid" in str(programs.obstacle(program))
    program.chmod(0o2755)
    monkeypatch.setattr(os, "getegid", lambda: program.stat().st_gid + 1)
    assert "setgid" in str(programs.obstacle(program))
    program.chmod(0o755)
    monkeypatch.setattr(os, "getxattr", lambda *_: b"\x01")
    assert "file capabilities" in str(programs.obstacle(program))


def test_what_is_no_program_at_all(tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("hello")
    assert "neither an ELF program nor a script" in str(programs.obstacle(text))
    loop = script(tmp_path / "loop", f"#!{tmp_path}/loop")
    assert "no interpreter" in str(programs.obstacle(loop))
    with pytest.raises(programs.ProgramError, match="not executable") as refused:
        programs.find(str(text))
    assert refused.value.exit_code == 126
    with pytest.raises(programs.ProgramError, match="there is no program") as missing:
        programs.find("no-such-program-anywhere")
    assert missing.value.exit_code == 127


def test_go_programs_do_not_ask_the_c_library(tmp_path: Path) -> None:
    program = elf(tmp_path / "program", X86_64, b"/lib64/ld-linux-x86-64.so.2\0")
    assert programs.obstacle(program) is None
    program.write_bytes(program.read_bytes() + b"\xff Go buildinf:")
    assert "Go" in str(programs.obstacle(program))


def test_the_environment_keeps_what_was_preloaded(tmp_path: Path) -> None:
    library = str(programs.library())
    made = programs.environment(tmp_path, {"LD_PRELOAD": "a.so b.so", "HOME": "/x"})
    assert made == {
        "LD_PRELOAD": f"{library}:a.so b.so",
        "VSWITCH_RUN_DIR": str(tmp_path),
        "HOME": "/x",
    }
    assert programs.environment(tmp_path, {})["LD_PRELOAD"] == library


def run(*args: str) -> int:
    with pytest.raises(SystemExit) as ended:
        cli.main(["netmap-run", *args])
    return int(ended.value.code or 0)


def test_check_looks_for_the_switch_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--run-dir", str(tmp_path), "--check", "--", "sh") == 1
    assert "no switch" in capsys.readouterr().err
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(tmp_path / programs.SOCKET))
        assert run("--run-dir", str(tmp_path), "--check", "--", "sh") == 0
        program = elf(tmp_path / "program")
        assert run("--run-dir", str(tmp_path), "--check", "--", str(program)) == 1
    assert "libvswitch-netmap.a" in capsys.readouterr().err.replace("\n", "")


def test_the_program_takes_the_place_of_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    executed = []
    monkeypatch.setattr(os, "execve", lambda *args: executed.append(args))
    assert run("--run-dir", str(tmp_path), sys.executable, "--check", "-c", "") == 0
    path, words, environment = executed[0]
    assert path == Path(sys.executable)
    assert words == [sys.executable, "--check", "-c", ""], "its options are its own"
    assert environment["VSWITCH_RUN_DIR"] == str(tmp_path)
    assert run("no-such-program-anywhere") == 127
    assert run(str(elf(tmp_path / "program"))) == 126
