"""The comparator of the differential tests finds what it is there for."""

from __future__ import annotations

from tests.support.compare import Difference, Outcome, compare
from tests.support.corpus import MARK, Batch, Corpus, Sent


def frame(serial: int, source: int = 1, body: bytes = b"body") -> bytes:
    head = bytes(5) + b"\x02" + bytes(5) + bytes([source]) + b"\x88\xb5"
    return head + body + MARK + serial.to_bytes(5, "big")


A, B, C = frame(1), frame(2), frame(3, source=2)
BATCHES = [Batch(0, tuple(Sent(0, "unicast", data) for data in (A, B, C)))]


def found(
    ours: list[bytes], theirs: list[bytes], differences: list[Difference] | None = None
) -> Outcome:
    """Compares what host 1 received; host 0 received nothing."""
    return compare(BATCHES, [[[], ours]], [[[], theirs]], differences or [])


def test_equal_deliveries_have_no_mismatch() -> None:
    assert found([A, B, C], [A, B, C]).mismatches == []


def test_flows_may_overtake_each_other_but_not_themselves() -> None:
    assert found([C, A, B], [A, B, C]).mismatches == []
    assert len(found([B, A, C], [A, B, C]).mismatches) == 1


def test_lost_extra_and_doubled_frames_are_found() -> None:
    assert len(found([A, B], [A, B, C]).mismatches) == 1
    assert len(found([A, B, C], [A, B]).mismatches) == 1
    assert len(found([A, B, B, C], [A, B, C]).mismatches) == 1


def test_one_changed_byte_is_found() -> None:
    assert len(found([A, B, frame(3, 2, b"bodY")], [A, B, C]).mismatches) == 1


def test_an_excuse_covers_its_frames_only_and_is_counted_when_needed() -> None:
    excuse = Difference("why", lambda sent, host: sent.data == C and host == 1)
    outcome = found([A, B], [A, B, C], [excuse])
    assert outcome.mismatches == []
    assert outcome.excused == {"why": 1}
    assert len(found([A], [A, B, C], [excuse]).mismatches) == 1
    assert found([A, B, C], [A, B, C], [excuse]).excused == {}


def test_a_projection_leaves_the_rest_to_be_compared() -> None:
    excuse = Difference("lower case", lambda sent, _: sent.data == C, bytes.lower)
    assert found([A, B, frame(3, 2, b"bodY")], [A, B, C], [excuse]).mismatches == []
    assert len(found([A, B, frame(3, 2, b"bodX")], [A, B, C], [excuse]).mismatches) == 1


def test_a_corpus_is_the_same_for_the_same_seed_and_covers_every_kind() -> None:
    batches = list(Corpus(7).batches(20_000))
    assert batches == list(Corpus(7).batches(20_000))
    assert batches != list(Corpus(8).batches(20_000))
    kinds = {sent.kind for batch in batches for sent in batch.frames}
    for kind in ("unicast", "unknown unicast", "broadcast", "multicast", "reserved", "bad source"):
        for tags in ("", "tagged ", "priority ", "qinq "):
            assert tags + kind in kinds
    for kind in ("to zero", "to itself", "short unicast", "short tagged unicast"):
        assert kind in kinds
    assert {batch.port for batch in batches} == {0, 1, 2, 3}
