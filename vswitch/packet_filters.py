"""Filter expressions as programs for packet sockets, whose view of a frame is not the wire's.

The kernel takes the first VLAN tag out of a frame before any program sees it: the bytes behind it
lie four further to the front, TPID and TCI are in words of their own (SKF_AD_VLAN_*, filter.rst
of the kernel). A program of libpcap reads the wire. So it is used twice, as it is for frames
without a tag and rewritten for those with one: ``vlan 10 and tcp`` finds what it says, and ``tcp``
does not find tagged frames.

A fanout program tells the kernel which socket of a group gets a frame. There the frame begins at
its network header, so every load counts from SKF_LL_OFF.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from vswitch.filters import INSTRUCTIONS_MAX, FilterError, compile_filter

_LD, _LDX, _ALU, _JMP, _RET, _MISC = 0, 1, 4, 5, 6, 7
_ABS, _IND, _LEN, _MSH = 0x20, 0x40, 0x80, 0xA0
_SIZES = {0x00: 4, 0x08: 2, 0x10: 1}
_H, _W = 0x08, 0x00
_JA, _JEQ = 0x00, 0x10
_ADD, _MUL, _AND, _RSH, _MOD, _XOR = 0x00, 0x20, 0x50, 0x70, 0x90, 0xA0
_RET_A, _TAX = 0x10, 0x00
_X = 0x08  # the operand is the index register

_LL_OFF = 0xFFE00000  # of the Ethernet header
_AD_VLAN_TAG, _AD_VLAN_PRESENT, _AD_VLAN_TPID = 0xFFFFF02C, 0xFFFFF030, 0xFFFFF03C
_TPIDS = frozenset((0x8100, 0x88A8, 0x9100, 0x9200, 0x9300))
_MACS_END, _TAG_END, _TAG_BYTES, _HEADER_BYTES = 12, 16, 4, 14
_JUMP_MAX = 255
_TYPE_IPV4, _TYPE_IPV6 = 0x0800, 0x86DD
_ODD = 0x9E3779B1  # 2^32 / the golden ratio


class _Instruction(NamedTuple):
    code: int
    jt: int
    jf: int
    k: int

    @property
    def kind(self) -> int:
        return self.code & 0x07

    @property
    def mode(self) -> int:
        return self.code & 0xE0


class _View(NamedTuple):
    """How a program's context shows a frame."""

    tagged: bool  # the first tag was taken out
    base: int  # added to every offset
    before: int  # bytes of the frame that its length leaves out


def socket_filter(expression: str) -> str:
    """The program of a socket's filter; "" takes everything. FilterError."""
    program = _parse(compile_filter(expression))
    if not program:
        return ""
    return _text(_both(program, base=0, before=0, returns=lambda k: [_ret(k)]))


def fanout_program(expression: str, queues: int) -> str:
    """The program of a group of ``queues`` sockets: which of them gets a frame. FilterError.

    Frames that the expression matches go to the first. The others are spread over the rest by a
    hash of their IP addresses, MAC addresses where there are none, the same in both directions.
    """
    if queues < 2:
        raise FilterError("a fanout program needs two queues or more")
    program = _parse(compile_filter(expression))
    if not program:
        raise FilterError("empty: every frame would be of the first queue")
    other = list(_spread(queues - 1))
    # Reached by falling off the end; a jump there is "return no" until its place is known.
    code = _both(program, _LL_OFF, _HEADER_BYTES, lambda k: [_ret(0) if k else _JUMP_TO_END])
    end = len(code)
    code = [
        _Instruction(_JMP | _JA, 0, 0, end - at - 1) if one == _JUMP_TO_END else one
        for at, one in enumerate(code)
    ]
    return _text([*code, *other])


def _ret(k: int) -> _Instruction:
    return _Instruction(_RET, 0, 0, k)


_JUMP_TO_END = _Instruction(_JMP | _JA, 0, 0, 0xFFFFFFFF)


def _parse(text: str) -> list[_Instruction]:
    return [_Instruction(*map(int, line.split())) for line in text.split(",")[1:]]


def _text(code: list[_Instruction]) -> str:
    if len(code) > INSTRUCTIONS_MAX:
        raise FilterError(
            f"{len(code)} instructions with and without a VLAN tag, at most {INSTRUCTIONS_MAX} "
            "are allowed"
        )
    lines = (f"{one.code} {one.jt} {one.jf} {one.k}" for one in code)
    return ",".join([str(len(code)), *lines])


def _both(
    program: list[_Instruction],
    base: int,
    before: int,
    returns: Callable[[int], list[_Instruction]],
) -> list[_Instruction]:
    """The program for tagged frames, then the one for others."""
    tagged = _rewrite(program, _View(True, base, before + _TAG_BYTES), returns)
    plain = _rewrite(program, _View(False, base, before), returns)
    return [
        _Instruction(_LD | _ABS, 0, 0, _AD_VLAN_PRESENT),
        _Instruction(_JMP | _JEQ, 0, 1, 0),
        _Instruction(_JMP | _JA, 0, 0, len(tagged)),
        *tagged,
        *plain,
    ]


def _rewrite(
    program: list[_Instruction], view: _View, returns: Callable[[int], list[_Instruction]]
) -> list[_Instruction]:
    reached = _reached(program) if view.tagged else frozenset(range(len(program)))
    parts: list[list[_Instruction]] = []
    for at, one in enumerate(program):
        if at not in reached:
            parts.append([_ret(0)])
        elif one.kind == _RET and one.code == _RET:
            parts.append(returns(one.k))
        else:
            parts.append(_load(one, view))
    starts = [0]
    for part in parts:
        starts.append(starts[-1] + len(part))
    code: list[_Instruction] = []
    for at, part in enumerate(parts):
        if program[at].kind == _JMP and at in reached:
            code.append(_jump(program[at], at, starts))
        else:
            code += part
    return code


def _jump(one: _Instruction, at: int, starts: list[int]) -> _Instruction:
    here = starts[at] + 1
    if one.code == _JMP | _JA:
        return one._replace(k=starts[at + 1 + one.k] - here)
    jt, jf = starts[at + 1 + one.jt] - here, starts[at + 1 + one.jf] - here
    if max(jt, jf) > _JUMP_MAX:
        raise FilterError("too long for frames with a VLAN tag")
    return one._replace(jt=jt, jf=jf)


def _reached(program: list[_Instruction]) -> frozenset[int]:
    """Instructions that a tagged frame can come to: its type field is a TPID."""
    seen: set[tuple[int, bool]] = set()
    todo = [(0, False)]
    while todo:
        at, is_type = todo.pop()
        if (at, is_type) in seen:
            continue
        seen.add((at, is_type))
        todo += _next(program[at], at, is_type)
    return frozenset(at for at, _ in seen)


def _next(one: _Instruction, at: int, is_type: bool) -> Iterator[tuple[int, bool]]:
    """Where the program goes on. ``is_type``: the accumulator is the frame's type field."""
    if one.kind == _RET:
        return
    if one.kind != _JMP:
        if one.kind in (_LD, _ALU) or one == _Instruction(_MISC | 0x80, 0, 0, 0):
            is_type = one == (_LD | _ABS | _H, 0, 0, _MACS_END)
        yield at + 1, is_type
    elif one.code == _JMP | _JA:
        yield at + 1 + one.k, is_type
    else:
        never = one.code == _JMP | _JEQ and is_type and one.k not in _TPIDS
        if not never:
            yield at + 1 + one.jt, is_type
        yield at + 1 + one.jf, is_type


def _load(one: _Instruction, view: _View) -> list[_Instruction]:
    """The same instruction in another view of the frame."""
    if one.kind == _LD and one.mode == _LEN:
        return [one, _Instruction(_ALU | _ADD, 0, 0, view.before)] if view.before else [one]
    absolute = one.kind == _LD and one.mode == _ABS
    if absolute and view.tagged and _MACS_END <= one.k < _TAG_END:
        return _load_tag(one)
    reads = absolute or (one.kind == _LD and one.mode == _IND)
    if not reads and not (one.kind == _LDX and one.mode == _MSH):
        return [one]
    size = _SIZES[one.code & 0x18]
    k = one.k
    if view.tagged:
        if k >= _TAG_END:
            k -= _TAG_BYTES
        elif one.mode == _IND or k + size > _MACS_END:
            raise FilterError("reads over the border of a VLAN tag")
    return [one._replace(k=(k + view.base) & 0xFFFFFFFF)]


def _load_tag(one: _Instruction) -> list[_Instruction]:
    """Of TPID and TCI, in words that the kernel keeps."""
    size, offset = _SIZES[one.code & 0x18], one.k - _MACS_END
    if size == 4 or (size == 2 and offset % 2):
        raise FilterError("reads over the border of a VLAN tag")
    word = _Instruction(_LD | _ABS, 0, 0, _AD_VLAN_TPID if offset < 2 else _AD_VLAN_TAG)
    if size == 2:
        return [word]
    if offset % 2:
        return [word, _Instruction(_ALU | _AND, 0, 0, 0xFF)]
    return [word, _Instruction(_ALU | _RSH, 0, 0, 8)]


def _spread(queues: int) -> Iterator[_Instruction]:
    """Socket 1 to ``queues``, by the addresses' low words."""

    def both(first: int, second: int, skip: int) -> Iterator[_Instruction]:
        yield _Instruction(_LD | _ABS | _W, 0, 0, _LL_OFF + first)
        yield _Instruction(_MISC | _TAX, 0, 0, 0)
        yield _Instruction(_LD | _ABS | _W, 0, 0, _LL_OFF + second)
        yield _Instruction(_ALU | _XOR | _X, 0, 0, 0)
        yield _Instruction(_JMP | _JA, 0, 0, skip)

    yield _Instruction(_LD | _ABS | _H, 0, 0, _LL_OFF + _MACS_END)
    yield _Instruction(_JMP | _JEQ, 0, 5, _TYPE_IPV4)
    yield from both(26, 30, 11)
    yield _Instruction(_JMP | _JEQ, 0, 5, _TYPE_IPV6)
    yield from both(34, 50, 5)
    yield from both(2, 8, 0)
    yield _Instruction(_ALU | _MUL, 0, 0, _ODD)
    yield _Instruction(_ALU | _RSH, 0, 0, 16)
    yield _Instruction(_ALU | _MOD, 0, 0, queues)
    yield _Instruction(_ALU | _ADD, 0, 0, 1)
    yield _Instruction(_RET | _RET_A, 0, 0, 0)
