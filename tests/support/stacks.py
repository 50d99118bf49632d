"""Hosts of a topology as their kernels' stacks see the network: sockets of this process, opened in
their namespaces."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
from collections.abc import Iterator

from tests.support.topology import Topology, wait_said
from tests.support.wire import in_netns

TIMEOUT_S = 5.0


@contextlib.contextmanager
def listening(net: Topology, host: int, port: int) -> Iterator[socket.socket]:
    """A TCP server's socket; connections wait in its queue."""
    address = (net.addresses[host], port)
    with in_netns(net.hosts[host], lambda: socket.create_server(address)) as server:
        server.settimeout(TIMEOUT_S)
        yield server


def connect(
    net: Topology, source: int, to: int, port: int, timeout_s: float = TIMEOUT_S
) -> socket.socket:
    """A TCP connection, or the OSError (TimeoutError: nobody said anything) that came of it."""
    address = (net.addresses[to], port)
    return in_netns(net.hosts[source], lambda: socket.create_connection(address, timeout=timeout_s))


def connects(net: Topology, source: int, to: int, port: int, timeout_s: float = 0.5) -> bool:
    try:
        connect(net, source, to, port, timeout_s).close()
    except TimeoutError:
        return False
    return True


def datagram_socket(net: Topology, source: int, to: int, port: int) -> socket.socket:
    """UDP, connected, so that ICMP errors come back to it."""

    def make() -> socket.socket:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.settimeout(TIMEOUT_S)
        sock.connect((net.addresses[to], port))
        return sock

    return in_netns(net.hosts[source], make)


def echo(client: socket.socket, server: socket.socket, data: bytes) -> bytes:
    """What a server's end of a connection got of data."""
    client.sendall(data)
    server.settimeout(TIMEOUT_S)
    return server.recv(len(data), socket.MSG_WAITALL)


def pings(net: Topology, source: int, to: int) -> bool:
    command = ("ping", "-c", "1", "-W", "1", net.addresses[to])
    argv = ["ip", "netns", "exec", net.hosts[source], *command]
    return subprocess.run(argv, capture_output=True, check=False, timeout=10).returncode == 0


def iperf(net: Topology, *options: str, source: int = 0, to: int = 1) -> dict[str, float]:
    """TCP from one host to another; what arrived, and what was sent again."""
    server = net.start(net.hosts[to], "iperf3", "-s", "-1", "--forceflush")
    wait_said(server, "listening")
    said = net.run(net.hosts[source], "iperf3", "-J", "-c", net.addresses[to], *options)
    server.wait(10)
    end: dict[str, dict[str, float]] = json.loads(said)["end"]
    return {
        "received_bytes": end["sum_received"]["bytes"],
        "retransmits": end["sum_sent"].get("retransmits", 0),
    }
