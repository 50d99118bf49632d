"""Packets with fds between keeper and forwarder."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from fastpath import channel
from fastpath.channel import Channel, ChannelClosed, ChannelError

Pair = tuple[Channel, Channel]


@pytest.fixture
def pair() -> Iterator[Pair]:
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ends = Channel(left), Channel(right)
    yield ends
    for end in ends:
        end.close()


def open_fds() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_a_bundle_arrives_with_its_fds_in_order(pair: Pair) -> None:
    files = [os.memfd_create(f"f{n}") for n in range(40)]
    for n, fd in enumerate(files):
        os.write(fd, b"x" * n)
    bundle = channel.Bundle("p1", "tap", {"name": "t0"}, "tap", {"name": "t0"}, "k=v")
    pair[0].send(bundle, files)
    (packet,) = pair[1].receive()
    assert packet.message == bundle
    assert [os.fstat(fd).st_size for fd in packet.fds] == list(range(40))
    assert all(not os.get_inheritable(fd) for fd in packet.fds)
    channel.close_all(packet.fds + files)


def test_what_the_socket_does_not_take_waits_and_leaks_nothing(pair: Pair) -> None:
    before = open_fds()
    fd = os.memfd_create("f")
    links = [channel.Link(n, "x" * 15, True, 1500, False) for n in range(20000)]
    for link in links:
        pair[0].send(link, [fd] if link.ifindex % 1000 == 0 else [])
    assert pair[0].waiting
    os.close(fd)
    got: list[channel.Message] = []
    while len(got) < len(links):
        for packet in pair[1].receive():
            got.append(packet.message)
            assert len(packet.fds) == (packet.message.ifindex % 1000 == 0)  # type: ignore[union-attr]
            channel.close_all(packet.fds)
        pair[0].flush()
    assert got == links
    assert open_fds() == before


def test_the_end_of_the_other_side_is_an_exception(pair: Pair) -> None:
    pair[0].send(channel.TakeBack())
    pair[0].sock.close()
    packets = pair[1].receive()
    assert next(packets).message == channel.TakeBack()
    with pytest.raises(ChannelClosed):
        next(packets)
    with pytest.raises(ChannelClosed):
        pair[1].send(channel.TakeBack())


def test_nonsense_closes_the_fds_that_came_with_it(pair: Pair) -> None:
    fd = os.memfd_create("f")
    before = open_fds()
    for body in (b"\xc1", b"\x93\x01\x02\x03", b"x" * (channel.PACKET_BYTES_MAX + 1)):
        socket.send_fds(pair[0].sock, [body], [fd])
        with pytest.raises(ChannelError):
            list(pair[1].receive())
    assert open_fds() == before
    os.close(fd)


def test_the_kernel_says_who_sent_a_packet() -> None:
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    right.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    sender, receiver = Channel(left), Channel(right)
    sender.send(channel.TakeBack())
    (packet,) = receiver.receive()
    assert (packet.sender_pid, packet.sender_uid) == (os.getpid(), os.getuid())
    sender.close()
    receiver.close()
