"""The other end of a tunnel: the kernel's vxlan device, or a socket that speaks an encapsulation.

    switch 10.99.0.254 ══ veth ══ 10.99.0.1 host        fd99::254 ══ fd99::1

``Underlay`` is that topology with both address families; the rest are ends at a host of it.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Iterable
from types import TracebackType

from tests.support.topology import Topology, run
from tests.support.wire import in_netns

VNI = 10
VXLAN_PORT = 4789
UDP_PORT = 6081
SWITCH = "10.99.0.254"
SWITCH6 = "fd99::254"
HEADER_BYTES = 8


class Underlay(Topology):
    """The switch's namespace has one address, on the pairs to all hosts."""

    def __enter__(self) -> Underlay:
        super().__enter__()
        try:
            for name in (self.switch, *self.hosts):
                for scope in ("all", "default"):
                    self.sysctl(name, f"net.ipv6.conf.{scope}.disable_ipv6", "0")
                    self.sysctl(name, f"net.ipv6.conf.{scope}.accept_dad", "0")
            for i, host in enumerate(self.hosts):
                self._join(self.switch, self.switch_ifs[i], SWITCH, SWITCH6)
                self._join(host, self.host_ifs[i], self.addresses[i], self.address6(i))
                self.route(i)
        except BaseException:
            self.close()
            raise
        return self

    def _join(self, netns: str, ifname: str, address: str, address6: str) -> None:
        add = ("ip", "-n", netns, "address", "add")
        if netns == self.switch:
            run(*add, f"{address}/32", "dev", ifname)
        run(*add, f"{address6}/{128 if netns == self.switch else 64}", "dev", ifname, "nodad")

    def route(self, host: int) -> None:
        """The switch's way to a host: its one address is on every pair."""
        for address in (f"{self.addresses[host]}/32", f"{self.address6(host)}/128"):
            run(
                *("ip", "-n", self.switch, "route", "replace", address),
                *("dev", self.switch_ifs[host]),
            )

    def address6(self, host: int) -> str:
        return f"fd99::{host + 1}"

    def kernel_vxlan(
        self,
        host: int,
        ifname: str = "vx0",
        *,
        vni: int = VNI,
        mtu: int | None = None,
        ipv6: bool = False,
        options: Iterable[str] = (),
    ) -> str:
        """A vxlan device of the kernel at a host, up, whose only peer is the switch."""
        local, remote = (self.address6(host), SWITCH6) if ipv6 else (self.addresses[host], SWITCH)
        mtu = mtu or self.mtu - (70 if ipv6 else 50)
        run(
            *("ip", "-n", self.hosts[host], "link", "add", ifname, "mtu", str(mtu)),
            *("type", "vxlan", "id", str(vni), "local", local, "remote", remote),
            *("dstport", str(VXLAN_PORT), *options),
        )
        self.sysctl(self.hosts[host], f"net.ipv6.conf.{ifname}.disable_ipv6", "1")  # no chatter
        run("ip", "-n", self.hosts[host], "link", "set", ifname, "up")
        return ifname


def vxlan_options(remotes: Iterable[str], local: str = SWITCH, vni: int = VNI) -> dict[str, str]:
    """Of a vxlan port, as its driver reads them."""
    return {"vni": str(vni), "local": local, "remotes": ",".join(remotes)}


def udp_options(peers: Iterable[str], local: str = SWITCH, vni: int = VNI) -> dict[str, str]:
    """Of a udp port, all ends at the usual UDP port."""
    return {
        "vni": str(vni),
        "local": endpoint(local),
        "peers": ",".join(endpoint(peer) for peer in peers),
    }


def endpoint(address: str, port: int = UDP_PORT) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


Encode = Callable[[bytes], bytes]


def vxlan_datagram(frame: bytes, vni: int = VNI, flags: int = 0x08) -> bytes:
    return struct.pack("!B3xI", flags, vni << 8) + frame


def overlay_datagram(
    frame: bytes,
    vni: int = VNI,
    *,
    version: int = 1,
    flags: int = 0,
    length: int | None = None,
    key: int = 0,
) -> bytes:
    length = len(frame) if length is None else length
    return struct.pack("!BBHI", version, flags, length, vni << 8 | key) + frame


class UdpPeer:
    """A socket at a host that wraps frames for the switch and unwraps what comes back."""

    def __init__(
        self,
        netns: str,
        local: tuple[str, int],
        to: tuple[str, int],
        encode: Encode = overlay_datagram,
    ) -> None:
        self.ifname = f"{local[0]} port {local[1]}"
        self.to = to
        self.encode = encode
        self.socket = in_netns(netns, lambda: self._open(local))

    @staticmethod
    def _open(local: tuple[str, int]) -> socket.socket:
        family = socket.AF_INET6 if ":" in local[0] else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_DGRAM)
        sock.setsockopt(socket.SOL_SOCKET, 33, 64 << 20)  # SO_RCVBUFFORCE
        sock.bind(local)
        return sock

    def __enter__(self) -> UdpPeer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def send(self, frame: bytes) -> None:
        self.send_raw(self.encode(frame))

    def send_raw(self, datagram: bytes) -> None:
        self.socket.sendto(datagram, self.to)

    def receive_raw(self) -> list[bytes]:
        """Every datagram that has arrived, oldest first; returns at once."""
        datagrams: list[bytes] = []
        while True:
            try:
                datagrams.append(self.socket.recv(65536, socket.MSG_DONTWAIT))
            except BlockingIOError:
                return datagrams

    def receive(self) -> list[bytes]:
        frames = []
        for datagram in self.receive_raw():
            frame = datagram[HEADER_BYTES:]
            assert datagram == self.encode(frame), "the header is not what it should be"
            frames.append(frame)
        return frames

    def close(self) -> None:
        self.socket.close()
