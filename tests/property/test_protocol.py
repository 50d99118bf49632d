"""The codec: any message, any split of its bytes, hostile bytes, and the algebra of hashes.

Messages are generated from the types of their fields, so a new one is covered as it is added.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastpath import protocol as wire
from tests.support.fastpath import port

ANY = wire.ToForwarder | wire.FromForwarder

SCALARS: dict[Any, st.SearchStrategy[Any]] = {
    str: st.text(max_size=12),
    bytes: st.binary(max_size=16),
    bool: st.booleans(),
    int: st.integers(-(2**63), 2**64 - 1),
    float: st.floats(allow_nan=False),
    type(None): st.none(),
}


def later(kind: Any) -> st.SearchStrategy[Any]:
    """values(kind), made when it is first drawn from."""

    def make() -> st.SearchStrategy[Any]:
        return values(kind)

    return st.deferred(make)


def values(kind: Any) -> st.SearchStrategy[Any]:
    """Values of a type, as the fields of messages have them."""
    if kind in SCALARS:
        return SCALARS[kind]
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return st.one_of([values(argument) for argument in arguments])
    if origin is dict:
        return st.dictionaries(values(arguments[0]), values(arguments[1]), max_size=3)
    if origin is tuple and arguments[-1] is Ellipsis:
        return st.lists(values(arguments[0]), max_size=3).map(tuple)
    if origin is tuple:
        return st.tuples(*map(values, arguments))
    assert issubclass(kind, msgspec.Struct), f"no strategy for {kind}"
    hints = typing.get_type_hints(kind)
    fields = {name: later(hints[name]) for name in kind.__struct_fields__}
    return st.builds(kind, **fields)


to_forwarder = values(wire.ToForwarder)
from_forwarder = values(wire.FromForwarder)
objects = values(wire.WireObject)


def split(data: bytes, places: Sequence[int]) -> list[bytes]:
    """The bytes in pieces; places are taken modulo the length."""
    ends = sorted(place % (len(data) + 1) for place in places)
    return [data[a:b] for a, b in zip([0, *ends], [*ends, len(data)], strict=True)]


def fed(decoder: wire.Decoder, pieces: Iterable[bytes]) -> list[wire.Message]:
    return [message for piece in pieces for message in decoder.feed(piece)]


@given(st.lists(to_forwarder, max_size=4), st.lists(st.integers(0, 2**16), max_size=10))
def test_round_trip_to_the_forwarder(messages: list[Any], places: list[int]) -> None:
    data = b"".join(map(wire.encode, messages))
    assert fed(wire.Decoder(wire.ToForwarder), split(data, places)) == messages


@given(st.lists(from_forwarder, max_size=4), st.lists(st.integers(0, 2**16), max_size=10))
def test_round_trip_from_the_forwarder(messages: list[Any], places: list[int]) -> None:
    data = b"".join(map(wire.encode, messages))
    assert fed(wire.Decoder(wire.FromForwarder), split(data, places)) == messages


@given(to_forwarder)
def test_byte_by_byte(message: Any) -> None:
    """Complete with the last byte and not before."""
    data = wire.encode(message)
    decoder = wire.Decoder(wire.ToForwarder)
    assert fed(decoder, (data[n : n + 1] for n in range(len(data) - 1))) == []
    assert fed(decoder, [data[-1:]]) == [message]


@given(st.one_of(to_forwarder, from_forwarder))
def test_each_side_takes_only_what_is_meant_for_it(message: Any) -> None:
    data = wire.encode(message)
    for kind in (wire.ToForwarder, wire.FromForwarder):
        decoder = wire.Decoder(kind)
        if isinstance(message, typing.get_args(kind)):
            assert fed(decoder, [data]) == [message]
        else:
            with pytest.raises(wire.ProtocolError):
                fed(decoder, [data])


def framed(body: bytes) -> bytes:
    return len(body).to_bytes(4, "big") + body


@given(st.binary(max_size=200))
def test_noise(data: bytes) -> None:
    """ProtocolError or nothing; never anything else."""
    for stream in (data, framed(data)):
        try:
            messages = fed(wire.Decoder(ANY), [stream])
        except wire.ProtocolError:
            continue
        assert all(isinstance(message, typing.get_args(ANY)) for message in messages)


@given(st.one_of(to_forwarder, from_forwarder), st.data())
def test_damaged_messages(message: Any, data: st.DataObject) -> None:
    """A byte changed, taken out or put in: another valid message, or ProtocolError."""
    body = bytearray(wire.encode(message)[4:])
    at = data.draw(st.integers(0, len(body) - 1))
    match data.draw(st.integers(0, 2)):
        case 0:
            body[at] = data.draw(st.integers(0, 255))
        case 1:
            del body[at]
        case _:
            body.insert(at, data.draw(st.integers(0, 255)))
    try:
        messages = fed(wire.Decoder(ANY), [framed(bytes(body))])
    except wire.ProtocolError:
        return
    (again,) = messages
    assert fed(wire.Decoder(ANY), [wire.encode(again)]) == [again]


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"\xc0", id="nil"),
        pytest.param(b"\x80", id="no tag"),
        pytest.param(b"\x81\xa1t\xa4ping", id="a field is missing"),
        pytest.param(b"\x82\xa1t\xa4ping\xa2id\xa11", id="a string for a number"),
        pytest.param(b"\x82\xa1t\xa4ping\xa2id\x01\x01", id="more behind the end"),
        pytest.param(b"\x82\xa1t\xa5chunk\xa7objects\xdd\xff\xff\xff\xff", id="2**32-1 elements"),
        pytest.param(b"\x82\xa1t\xa5chunk\xa1x" + b"\x91" * 500_000, id="deeper than the stack"),
        pytest.param(b"\x82\xa1t\xa4ping\xa2id\xc6\xff\xff\xff\xff", id="4 GB of bytes"),
        pytest.param(b"\x82\xa1t\xa2\xff\xfe\xa2id\x01", id="not UTF-8"),
    ],
)
def test_hostile(body: bytes) -> None:
    with pytest.raises(wire.ProtocolError):
        fed(wire.Decoder(ANY), [framed(body)])


def test_configuration_objects_forbid_unknown_fields() -> None:
    body = msgspec.msgpack.encode(
        {
            "t": "chunk",
            "objects": [
                {"t": "static", "bridge": "b", "mac": "m", "vid": 0, "port": "p", "more": 1}
            ],
        }
    )
    with pytest.raises(wire.ProtocolError):
        fed(wire.Decoder(ANY), [framed(body)])


@given(st.integers(wire.MESSAGE_BYTES_MAX + 1, 2**32 - 1))
def test_a_length_beyond_the_bound_is_refused_before_its_bytes_come(size: int) -> None:
    with pytest.raises(wire.ProtocolError):
        fed(wire.Decoder(ANY), [size.to_bytes(4, "big")])


def test_the_bound_is_exact() -> None:
    def of(size: int) -> wire.Event:
        return wire.Event(seq=1, kind="k", object="port/p1", message="x" * size)

    most = wire.MESSAGE_BYTES_MAX - len(wire.encode(of(0x10000))) + 4 + 0x10000
    data = wire.encode(of(most))
    assert len(data) == 4 + wire.MESSAGE_BYTES_MAX
    assert fed(wire.Decoder(wire.FromForwarder), [data]) == [of(most)]
    with pytest.raises(wire.ProtocolError):
        wire.encode(of(most + 1))


# --- hashes --------------------------------------------------------------------------------------

hashes = st.lists(st.binary(min_size=wire.HASH_BYTES, max_size=wire.HASH_BYTES), max_size=6)
EMPTY = wire.combine([])


@given(hashes, st.randoms())
def test_combine_does_not_know_order(items: list[bytes], random: Any) -> None:
    shuffled = list(items)
    random.shuffle(shuffled)
    assert wire.combine(items) == wire.combine(shuffled)
    assert len(wire.combine(items)) == wire.HASH_BYTES


@given(hashes, hashes)
def test_combine_and_remove(one: list[bytes], two: list[bytes]) -> None:
    """Sets can be put together in steps, and taken apart again."""
    both = wire.combine(one + two)
    assert wire.combine(two, base=wire.combine(one)) == both
    assert wire.remove(both, two) == wire.combine(one)
    assert wire.remove(both, one + two) == EMPTY == bytes(wire.HASH_BYTES)
    assert wire.combine(one, base=wire.remove(EMPTY, one)) == EMPTY


@given(st.lists(objects, min_size=1, max_size=4), objects)
def test_a_delta_gives_the_hash_of_the_whole(before: list[Any], changed: Any) -> None:
    """Replacing an object: the old hash goes, the new one comes; equal to starting over."""
    old = [wire.object_hash(obj) for obj in before]
    delta = wire.combine([wire.object_hash(changed)], base=wire.remove(wire.combine(old), old[:1]))
    assert delta == wire.combine(wire.object_hash(obj) for obj in [changed, *before[1:]])


@given(objects, objects)
def test_equal_objects_and_no_others_have_equal_hashes(one: Any, two: Any) -> None:
    assert (wire.object_hash(one) == wire.object_hash(two)) == (one == two)
    again = fed(wire.Decoder(ANY), [wire.encode(wire.Chunk((one,)))])
    assert isinstance(again[0], wire.Chunk)
    assert wire.object_hash(again[0].objects[0]) == wire.object_hash(one)


@given(values(wire.WirePort), st.randoms())
def test_the_hash_does_not_know_the_order_of_options(one: wire.WirePort, random: Any) -> None:
    items = list(one.options.items())
    random.shuffle(items)
    other = msgspec.structs.replace(one, options=dict(items))
    assert wire.object_hash(other) == wire.object_hash(one)


@given(st.lists(objects, max_size=20), st.integers(1, 7))
def test_chunks(parts: list[Any], size: int) -> None:
    made = list(wire.chunks(parts, size))
    assert [obj for chunk in made for obj in chunk.objects] == parts
    assert all(0 < len(chunk.objects) <= size for chunk in made)
    assert len(made) == -(-len(parts) // size)


@given(st.lists(objects, max_size=20), st.integers(50, 2000))
def test_chunks_are_bounded_in_bytes(parts: list[Any], most: int) -> None:
    made = list(wire.chunks(parts, size_bytes=most))
    assert [obj for chunk in made for obj in chunk.objects] == parts
    assert all(len(c.objects) == 1 or len(wire.encode(c)) <= most + 64 for c in made)


def test_a_snapshot_of_the_largest_ports_fits() -> None:
    """Every second VLAN by itself, on as many ports as there may be."""
    tagged = tuple((vid, vid) for vid in range(1, 4094, 2))
    ports = [port(f"port{n}", "memory", "br0", tagged=tagged) for n in range(256)]
    data = b"".join(map(wire.encode, wire.chunks(ports)))
    chunks = fed(wire.Decoder(wire.ToForwarder), [data])
    assert [obj for c in chunks if isinstance(c, wire.Chunk) for obj in c.objects] == ports
