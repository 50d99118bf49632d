"""cbpf.c against an interpreter written from the kernel's description of classic BPF
(Documentation/networking/filter.rst): programs of libpcap and random ones, frames of any length.
"""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.cbpf import ProgramError, run
from vswitch.filters import compile_filter

Instruction = tuple[int, int, int, int]
U32 = 0xFFFFFFFF
LD, LDX, ST, STX, ALU, JMP, RET, MISC = range(8)
IMM, ABS, IND, MEM, LEN, MSH = (mode << 5 for mode in range(6))
SIZES = {0x00: 4, 0x08: 2, 0x10: 1}
ALU_OPS = [op << 4 for op in range(11)]  # ADD SUB MUL DIV OR AND LSH RSH NEG MOD XOR
SOURCE_X, NEG, SHIFTS = 0x08, 0x80, (0x60, 0x70)


class OutsideError(Exception):
    """A load behind the bytes that are there."""


def load(data: bytes, at: int, size: int) -> int:
    if at > U32 or at + size > len(data):
        raise OutsideError
    return int.from_bytes(data[at : at + size], "big")


def alu(op: int, a: int, operand: int) -> int:
    """ZeroDivisionError ends the program as a load outside does."""
    results = {
        0x00: lambda: a + operand,
        0x10: lambda: a - operand,
        0x20: lambda: a * operand,
        0x30: lambda: a // operand,
        0x40: lambda: a | operand,
        0x50: lambda: a & operand,
        0x60: lambda: a << operand if operand < 32 else 0,
        0x70: lambda: a >> operand if operand < 32 else 0,
        0x80: lambda: -a,
        0x90: lambda: a % operand,
        0xA0: lambda: a ^ operand,
    }
    return results[op]() & U32


def jump(op: int, a: int, operand: int) -> bool:
    return {0x10: a == operand, 0x20: a > operand, 0x30: a >= operand, 0x40: bool(a & operand)}[op]


def interpret(program: list[Instruction], data: bytes, length: int) -> int:
    a = x = pc = 0
    memory = [0] * 16
    while True:
        code, jt, jf, k = program[pc]
        pc += 1
        kind, mode, size = code & 7, code & 0xE0, SIZES.get(code & 0x18, 0)
        operand = x if code & SOURCE_X else k
        if kind in (LD, LDX):
            value = {
                IMM: lambda k=k: k,
                ABS: lambda k=k, size=size: load(data, k, size),
                IND: lambda k=k, size=size, x=x: load(data, x + k, size),
                MEM: lambda k=k: memory[k],
                LEN: lambda: length,
                MSH: lambda k=k: (load(data, k, 1) & 0xF) * 4,
            }[mode]()
            a, x = (value, x) if kind == LD else (a, value)
        elif kind in (ST, STX):
            memory[k] = a if kind == ST else x
        elif kind == ALU:
            a = alu(code & 0xF0, a, operand)
        elif kind == JMP and code & 0xF0 == 0:
            pc += k
        elif kind == JMP:
            pc += jt if jump(code & 0xF0, a, operand) else jf
        elif kind == MISC:
            a, x = (x, x) if code & 0x80 else (a, a)
        else:
            return a if code & 0x10 else k


def expected(program: list[Instruction], data: bytes, length: int) -> int:
    try:
        return interpret(program, data, length)
    except (OutsideError, ZeroDivisionError):
        return 0


def text(program: list[Instruction]) -> str:
    return ",".join([str(len(program)), *(" ".join(map(str, item)) for item in program)])


def parsed(program: str) -> list[Instruction]:
    lines = program.split(",")[1:]
    return [(code, jt, jf, k) for code, jt, jf, k in (map(int, line.split()) for line in lines)]


offsets = st.integers(0, 80) | st.integers(0, U32)
sizes = st.sampled_from(sorted(SIZES))


@st.composite
def instructions(draw: st.DrawFn, left: int) -> Instruction:
    """One of them, whose jumps stay among the `left` that follow."""
    kind = draw(st.sampled_from((LD, LD, LD, LDX, ST, STX, ALU, ALU, JMP, JMP, MISC, RET)))
    cell = draw(st.integers(0, 15))
    if kind == LD:
        mode = draw(st.sampled_from((ABS, ABS, IND, LEN, IMM, MEM)))
        size = draw(sizes) if mode in (ABS, IND) else 0
        return LD | mode | size, 0, 0, cell if mode == MEM else draw(offsets)
    if kind == LDX:
        mode = draw(st.sampled_from((IMM, MEM, LEN, MSH)))
        size = 0x10 if mode == MSH else 0
        return LDX | mode | size, 0, 0, cell if mode == MEM else draw(offsets)
    if kind in (ST, STX):
        return kind, 0, 0, cell
    if kind == ALU:
        op = draw(st.sampled_from(ALU_OPS))
        source = 0 if op == NEG else draw(st.sampled_from((0, SOURCE_X)))
        most = 31 if op in SHIFTS and not source else U32
        return ALU | op | source, 0, 0, draw(st.integers(1, 31) | st.integers(1, most))
    if kind == JMP:
        far = st.integers(0, min(left - 1, 255))
        op, source = draw(st.integers(0, 4)) << 4, draw(st.sampled_from((0, SOURCE_X)))
        return (
            JMP | op | source if op else JMP,
            draw(far),
            draw(far),
            draw(far if not op else offsets),
        )
    if kind == MISC:
        return MISC | draw(st.sampled_from((0, 0x80))), 0, 0, 0
    return RET | draw(st.sampled_from((0, 0x10))), 0, 0, draw(offsets)


@st.composite
def programs(draw: st.DrawFn) -> list[Instruction]:
    count = draw(st.integers(0, 24))
    body = [draw(instructions(count - at)) for at in range(count)]
    return [*((STX, 0, 0, cell) for cell in range(16)), *body, (RET | 0x10, 0, 0, 0)]


@settings(max_examples=400, deadline=None)
@given(programs(), st.binary(max_size=90), st.integers(0, 100))
def test_random_programs(program: list[Instruction], data: bytes, have: int) -> None:
    shown = data[:have]
    assert run(text(program), data, have=have) == expected(program, shown, len(data))


EXPRESSIONS = (
    "tcp port 80 or udp port 53",
    "ip6 and icmp6[icmp6type] = icmp6-echo",
    "vlan 100 and vlan 200 and tcp[tcpflags] & tcp-syn != 0",
    "ip[2:2] > 100 and ip[0] & 0xf != 5",
    "pppoes and ip and host 192.0.2.1",
    "geneve 10 and tcp",
)
HEADERS = [
    bytes(12) + b"\x08\x00\x45\x00\x00\x40\0\0\0\0\x40\x06\0\0\xc0\x00\x02\x01\xc0\x00\x02\x02",
    bytes(12) + b"\x86\xdd\x60\0\0\0\0\x20\x3a\x40" + bytes(32),
    bytes(12) + b"\x81\x00\x00\x64\x81\x00\x00\xc8\x08\x00\x46\0\0\x50",
    bytes(12) + b"\x88\x64\x11\0\0\1\0\x20\0\x21\x45",
]


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(EXPRESSIONS),
    st.sampled_from(HEADERS),
    st.binary(max_size=60),
    st.integers(0, 120),
)
def test_programs_of_libpcap(expression: str, header: bytes, rest: bytes, have: int) -> None:
    program, data = compile_filter(expression), header + rest
    assert run(program, data, have=have) == expected(parsed(program), data[:have], len(data))


@given(st.text("0123456789 ,", max_size=40) | st.text(max_size=40))
def test_any_text_is_a_program_or_refused(program: str) -> None:
    program = program.replace("\0", "")
    if not program:
        return
    try:
        run(program, bytes(20))
    except ProgramError:
        return
    assert text(parsed(program)).count(",") == program.count(",")


def test_every_code_runs_or_is_refused() -> None:
    """libpcap's interpreter stops the process for a code that it does not know."""
    known = 0
    for code in range(0x10000):
        try:
            run(f"4,2 0 0 1,{code} 0 0 1,6 0 0 7,6 0 0 7", bytes(20))
        except ProgramError:
            continue
        known += 1
    assert known == 49


@pytest.mark.parametrize(
    ("program", "sound"),
    [
        ("2,96 0 0 3,22 0 0 0", False),  # reads M[3]
        ("3,2 0 0 2,96 0 0 3,22 0 0 0", False),
        ("3,2 0 0 3,96 0 0 3,22 0 0 0", True),
        ("5,128 0 0 0,21 0 1 20,2 0 0 3,96 0 0 3,22 0 0 0", False),  # on one way only
        ("6,128 0 0 0,21 0 1 20,5 0 0 1,2 0 0 3,97 0 0 3,22 0 0 0", False),
        ("6,128 0 0 0,2 0 0 3,21 0 1 20,2 0 0 4,97 0 0 3,22 0 0 0", True),
        ("4,21 0 1 20,6 0 0 1,2 0 0 3,22 0 0 0", True),
    ],
)
def test_scratch_memory_is_written_before_it_is_read(program: str, sound: bool) -> None:
    if sound:
        run(program, bytes(20))
    else:
        with pytest.raises(ProgramError):
            run(program, bytes(20))


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_a_program_that_broke_off_is_refused(expression: str) -> None:
    program = compile_filter(expression)
    for at in range(1, program.rindex(" ")):
        with pytest.raises(ProgramError):
            run(program[:at], bytes(20))
