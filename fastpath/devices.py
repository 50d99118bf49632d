"""What the keeper does to kernel interfaces: watches all, makes and removes veth pairs.

Watching reads rtnetlink itself (a dozen lines, no thread, no copy of the kernel's tables); making
goes through pyroute2. A pair we made carries a mark in its alias (IFLA_IFALIAS), so that a keeper
that comes later knows it and nobody else's interface is ever removed.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator
from typing import Any

from pyroute2 import IPRoute  # type: ignore[import-untyped]
from pyroute2.netlink.exceptions import NetlinkError  # type: ignore[import-untyped]

from fastpath.channel import Link

NETNS_DIR = "/run/netns"
IFF_UP = 1
RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK = 16, 17, 18
NLM_F_REQUEST_DUMP = 0x301
NLMSG_ERROR, NLMSG_DONE = 2, 3
RTMGRP_LINK = 1
IFLA_IFNAME, IFLA_MTU = 3, 4
RECEIVE_BYTES = 1 << 20

_NLMSG = struct.Struct("=IHHII")
_IFINFO = struct.Struct("=BxHiII")
_ATTRIBUTE = struct.Struct("=HH")


class DeviceError(Exception):
    """``code`` is the API's: NETNS_NOT_FOUND, PRIVILEGE, PORT_BUSY..."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class LinkMonitor:
    """The interfaces of this network namespace, and what becomes of them."""

    def __init__(self) -> None:
        self._sock = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE
        )
        self._sock.setblocking(False)
        self._sock.bind((0, RTMGRP_LINK))
        self.links: dict[int, Link] = {}
        self.ask()

    def fileno(self) -> int:
        return self._sock.fileno()

    def close(self) -> None:
        self._sock.close()

    def ask(self) -> None:
        """Ask for all interfaces; the answer comes by :meth:`read`."""
        body = _IFINFO.pack(socket.AF_UNSPEC, 0, 0, 0, 0)
        header = _NLMSG.pack(_NLMSG.size + len(body), RTM_GETLINK, NLM_F_REQUEST_DUMP, 1, 0)
        self._sock.send(header + body)

    def read(self) -> list[Link]:
        """What changed since the last call; interfaces that are as they were are left out."""
        changed: list[Link] = []
        while True:
            try:
                data = self._sock.recv(RECEIVE_BYTES)
            except (BlockingIOError, InterruptedError):
                return changed
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                self.ask()  # the kernel dropped news: look at everything again
                continue
            for link in _links(data):
                if link.gone:
                    known = self.links.pop(link.ifindex, None)
                    changed += [link] if known else []
                elif self.links.get(link.ifindex) != link:
                    self.links[link.ifindex] = link
                    changed.append(link)


def _links(data: bytes) -> Iterator[Link]:
    """The interfaces in a buffer of netlink messages."""
    at = 0
    while at + _NLMSG.size <= len(data):
        size, kind, _, _, _ = _NLMSG.unpack_from(data, at)
        if size < _NLMSG.size or at + size > len(data):
            return
        if kind in (RTM_NEWLINK, RTM_DELLINK):
            family, _, index, flags, _ = _IFINFO.unpack_from(data, at + _NLMSG.size)
            # A bridge speaks of its ports in its own family: not about the interface itself.
            if family == socket.AF_UNSPEC:
                start = at + _NLMSG.size + _IFINFO.size
                name, mtu = _name_and_mtu(data[start : at + size])
                yield Link(index, name, bool(flags & IFF_UP), mtu, kind == RTM_DELLINK)
        at += (size + 3) & ~3


def _name_and_mtu(attributes: bytes) -> tuple[str, int]:
    name, mtu, at = "", 0, 0
    while at + _ATTRIBUTE.size <= len(attributes):
        size, kind = _ATTRIBUTE.unpack_from(attributes, at)
        if size < _ATTRIBUTE.size:
            break
        value = attributes[at + _ATTRIBUTE.size : at + size]
        if kind == IFLA_IFNAME:
            name = value.rstrip(b"\0").decode(errors="replace")
        elif kind == IFLA_MTU:
            mtu = int.from_bytes(value[:4], "little")
        at += (size + 3) & ~3
    return name, mtu


def make_veth(name: str, peer: str, netns: str, mark: str) -> None:
    """A pair ``name``, ``peer``, the peer in namespace ``netns`` ("": ours); our end is up.

    A pair with exactly this mark is taken as it is. DeviceError says what is missing.
    """
    try:
        with IPRoute() as route:
            if _adopt(route, name, mark):
                return
            end: dict[str, Any] = {"ifname": peer}
            fd = _open_netns(netns) if netns else -1
            try:
                if fd >= 0:
                    end["net_ns_fd"] = fd
                route.link("add", ifname=name, kind="veth", peer=end)
            finally:
                if fd >= 0:
                    os.close(fd)
            index = route.link_lookup(ifname=name)[0]
            route.link("set", index=index, ifalias=mark)
            route.link("set", index=index, state="up")
    except NetlinkError as error:
        raise _device_error(error, name, peer, netns) from error


def _adopt(route: Any, name: str, mark: str) -> bool:
    """An interface of that name: ours as it should be, ours but different, or somebody's."""
    found = route.link_lookup(ifname=name)
    if not found:
        return False
    alias = route.get_links(found[0])[0].get("ifalias") or ""
    if alias == mark:
        route.link("set", index=found[0], state="up")
        return True
    if not same_owner(alias, mark):
        raise DeviceError("PORT_BUSY", f"an interface {name} is there that we did not make")
    route.link("del", index=found[0])
    return False


def mark_of(owner: str, port: str, peer: str, netns: str) -> str:
    """What stands in the alias of a pair; ``owner`` is the run directory."""
    return f"vswitch {owner} {port} {peer} {netns}"


def same_owner(alias: str, mark: str) -> bool:
    """Both were made for the same port of the same run directory."""
    return alias.split(" ")[:3] == mark.split(" ")[:3]


def remove_veth(name: str, mark: str) -> None:
    """Remove the pair if it carries that mark; what is gone is gone."""
    try:
        with IPRoute() as route:
            for index in route.link_lookup(ifname=name):
                if (route.get_links(index)[0].get("ifalias") or "") == mark:
                    route.link("del", index=index)
    except NetlinkError as error:
        if error.code != errno.ENODEV:
            raise DeviceError("FAILED", f"{name} could not be removed: {error}") from error


def _open_netns(netns: str) -> int:
    try:
        return os.open(f"{NETNS_DIR}/{netns}", os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        text = f"there is no network namespace {netns} in {NETNS_DIR}: {error.strerror}"
        raise DeviceError("NETNS_NOT_FOUND", text) from error


def _device_error(error: NetlinkError, name: str, peer: str, netns: str) -> DeviceError:
    if error.code == errno.EPERM:
        text = f"making {name} needs NET_ADMIN" + (f", in namespace {netns} too" if netns else "")
        return DeviceError("PRIVILEGE", text)
    if error.code == errno.EEXIST:
        where = f" in namespace {netns}" if netns else ""
        return DeviceError("PORT_BUSY", f"an interface {peer} is there already{where}")
    if error.code == errno.EINVAL and netns:
        return DeviceError("NETNS_NOT_FOUND", f"{netns} is no network namespace")
    return DeviceError("FAILED", f"veth {name}: {os.strerror(error.code)}")
