"""What the keeper opens for the forwarder, and what it refuses to.

The forwarder parses hostile bytes, so its requests are checked as if it had been taken over: a
type that exists, interface names of a legal form that the keeper's own patterns allow, no option
that names a path.
"""

from __future__ import annotations

import errno
import fnmatch
import hashlib
import os
import re
import resource
import socket
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fastpath import devices, native, pipes, rights, vale
from fastpath.channel import Bundle, close_all
from fastpath.check import OPTION_BYTES_MAX, OPTIONS_MAX
from fastpath.devices import DeviceError

VETH = "veth"
AF_XDP = "af_xdp"
NETMAP = "netmap"
VALE = "vale"
VETH_OPTIONS = ("name", "peer", "netns")
# Which option of a type names a kernel interface.
INTERFACE_OPTIONS = {
    "af_packet": ("ifname",),
    AF_XDP: ("ifname",),
    "tap": ("name",),
    "tun": ("name",),
    VETH: ("name", "peer"),
    "vale_nic": ("ifname",),
}
NUMBERED_TYPES = ("tap", "tun")  # "name" may end in %d
RESERVED_OPTIONS = ("directory",)
ALWAYS_DENIED = ("lo",)
FAMILY_XDP = 44  # linux/socket.h; the socket module has no name for it
XDP_LOCKED_BYTES = 12 << 20  # what a port locks, for each queue
XDP_NOT_ALLOWED = (
    "af_xdp ports are not allowed here: they need the capabilities BPF and IPC_LOCK, which "
    "`vswitch serve --af-xdp` lets the keeper have"
)

_INTERFACE = re.compile(r"[A-Za-z0-9_.-]{1,15}")
_NUMBERED = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,11}%d")  # the kernel says which
_VALE_SWITCH = re.compile(r"vale[A-Za-z0-9_]{0,11}")
_NETNS = re.compile(r"[A-Za-z0-9_.-]{1,64}")


class OpenError(Exception):
    """``code`` is the API's, the message one sentence."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class Policy:
    """Shell patterns over interface names. ``lo`` needs to be allowed word for word."""

    allow: Sequence[str] = ("*",)
    deny: Sequence[str] = ()

    def check(self, name: str) -> None:
        """OpenError when a port may not have this interface."""
        if not _INTERFACE.fullmatch(name) or name in (".", ".."):
            raise OpenError("IFACE_NAME_INVALID", f"{name!r} is no interface name")
        if name in ALWAYS_DENIED and name not in self.allow:
            raise OpenError("IFACE_DENIED", f"interface {name} is never given to a port")
        for pattern in self.deny:
            if fnmatch.fnmatchcase(name, pattern):
                raise OpenError("IFACE_DENIED", f"interface {name} is denied by {pattern!r}")
        if not any(fnmatch.fnmatchcase(name, pattern) for pattern in self.allow):
            allowed = ", ".join(self.allow)
            raise OpenError("IFACE_DENIED", f"interface {name} is not among {allowed}")


@dataclass(slots=True)
class Opener:
    """Opens and releases ports. ``owner`` tells our interfaces from other instances'."""

    policy: Policy
    pcap_directory: Path
    run_directory: Path
    types: tuple[str, ...] = field(default_factory=native.port_types)
    extmem_directory: Path | None = None  # of files that may be netmap's memory
    af_xdp: bool = False  # ports of this type are allowed

    @property
    def owner(self) -> str:
        path = os.fsencode(self.run_directory.resolve())
        return hashlib.blake2b(path, digest_size=6).hexdigest()

    def port_types(self) -> dict[str, str]:
        """Each type with "" when it works here, else the sentence that says why not."""
        checks = {
            "af_packet": _packet_socket,
            AF_XDP: self._xdp,
            "tap": _tun_device,
            "tun": _tun_device,
            "pcap": self._pcap_directory,
            "netmap": _netmap_device,
            "vale_nic": _netmap_device,
        }
        result = {}
        for type in self.types:
            check = checks.get(type)
            result[type] = check() if check else ""
        if pipes.PIPE in result:
            result[VALE] = result[pipes.PIPE]  # the control plane makes pipes of it
        if "af_packet" in result:
            result[VETH] = result["af_packet"] or _net_admin()
        return result

    def open(
        self,
        port: str,
        type: str,
        options: Mapping[str, str],
        held: Collection[pipes.Held] = (),
    ) -> tuple[Bundle, list[int]]:
        """The device and its fds, which are the caller's. OpenError says why not.

        ``held``: what the keeper has open; a pipe's second end shares the first one's memory.
        """
        self._check(type, options)
        driver, driver_options = self._driver(type, options)
        try:
            if type == pipes.PIPE and (shared := pipes.share(options, held)) is not None:
                fds, state = shared
                return Bundle(port, type, dict(options), driver, driver_options, state), fds
            if type == VETH:
                devices.make_veth(
                    options["name"],
                    options["peer"],
                    options.get("netns", ""),
                    self._mark(port, options),
                )
            fds, state = native.port_acquire(driver, port, driver_options)
            if type in NUMBERED_TYPES:
                self._check_given(type, port, driver_options, fds, state)
        except (DeviceError, pipes.PipeError) as error:
            raise OpenError(error.code, str(error)) from error
        except native.NativeError as error:
            raise OpenError(_code(error), error.message) from error
        return Bundle(port, type, dict(options), driver, driver_options, state), fds

    def _check_given(
        self, type: str, port: str, options: Mapping[str, str], fds: Sequence[int], state: str
    ) -> None:
        """The kernel chose the name of "tap%d": the patterns count for what it chose."""
        name = dict(pair.split("=", 1) for pair in state.split())["name"]
        try:
            self.policy.check(name)
        except OpenError:
            native.port_release(type, port, options, fds, state)
            close_all(fds)
            raise

    def release(self, bundle: Bundle, fds: Sequence[int]) -> None:
        """Undo ``open`` and close the fds. OpenError when something of ours is left."""
        try:
            if bundle.driver in self.types:
                native.port_release(
                    bundle.driver, bundle.name, bundle.driver_options, fds, bundle.state
                )
        finally:
            close_all(fds)
        if bundle.type == VETH:
            try:
                devices.remove_veth(
                    bundle.options.get("name", ""), self._mark(bundle.name, bundle.options)
                )
            except DeviceError as error:
                raise OpenError(error.code, str(error)) from error

    def sound(self, bundle: Bundle) -> bool:
        """A forwarder handed this back: is it something that we would have opened?"""
        try:
            self._check(bundle.type, bundle.options)
            driver = self._driver(bundle.type, bundle.options)
        except OpenError:
            return False
        return driver == (bundle.driver, bundle.driver_options)

    def _mark(self, port: str, options: Mapping[str, str]) -> str:
        peer, netns = options.get("peer", ""), options.get("netns", "")
        return devices.mark_of(self.owner, port, peer, netns)

    def _check(self, type: str, options: Mapping[str, str]) -> None:
        if type not in self.types and not (type == VETH and "af_packet" in self.types):
            raise OpenError("PORT_TYPE_UNKNOWN", f"there is no port type {type!r} here")
        if type == AF_XDP and not self.af_xdp:
            raise OpenError("PRIVILEGE", XDP_NOT_ALLOWED)
        if len(options) > OPTIONS_MAX:
            raise OpenError("INVALID", f"{len(options)} options are too many")
        for name, value in options.items():
            if len(name) + len(value) > OPTION_BYTES_MAX or "\0" in name + value:
                raise OpenError("INVALID", f"option {name[:40]!r} is too long")
            if name in RESERVED_OPTIONS:
                raise OpenError("INVALID", f"option {name} is the keeper's own")
        for name in INTERFACE_OPTIONS.get(type, ()):
            if name not in options:
                raise OpenError("INVALID", f"{type}: {name} is missing")
            # The peer lives in a namespace of its own, where our patterns mean nothing.
            if name == "peer" and options.get("netns"):
                Policy(allow=("*", *ALWAYS_DENIED)).check(options[name])
            elif type not in NUMBERED_TYPES or not _NUMBERED.fullmatch(options[name]):
                self.policy.check(options[name])
        if type == NETMAP:
            self._check_portspec(options.get("portspec", ""))
        if type == pipes.PIPE and (text := pipes.problem(options)):
            raise OpenError("INVALID", text)
        netns = options.get("netns", "")
        if type == VETH and netns and (not _NETNS.fullmatch(netns) or netns in (".", "..")):
            raise OpenError("INVALID", f"{netns!r} is no name of a network namespace")
        if type == "vale_nic" and not _VALE_SWITCH.fullmatch(options.get("switch", "")):
            raise OpenError("INVALID", f"{options.get('switch')!r} is no name of a VALE switch")

    def _check_portspec(self, text: str) -> None:
        """Interfaces stand in the middle of it: the port's, and the one it shares memory with."""
        try:
            spec = native.portspec(text)
        except native.NativeError as error:
            raise OpenError("INVALID", f"portspec: {error.message}") from error
        for name in (spec["port"]["ifname"], spec["share"]["ifname"]):
            if name:
                self.policy.check(name)

    def _driver(self, type: str, options: Mapping[str, str]) -> tuple[str, dict[str, str]]:
        """The C port type that serves ``type``, and its options."""
        if type == VETH:
            rest = {name: value for name, value in options.items() if name not in VETH_OPTIONS}
            return "af_packet", {"ifname": options["name"], **rest}
        if type == "pcap":
            return type, {**options, "directory": str(self.pcap_directory)}
        if type == NETMAP and self.extmem_directory is not None:
            return type, {**options, "directory": str(self.extmem_directory)}
        return type, dict(options)

    def _pcap_directory(self) -> str:
        if os.access(self.pcap_directory, os.R_OK | os.W_OK | os.X_OK):
            return ""
        return f"the keeper may not read and write {self.pcap_directory}"

    def _xdp(self) -> str:
        return _xdp_socket() if self.af_xdp else XDP_NOT_ALLOWED


def _code(error: native.NativeError) -> str:
    """Whatever the driver calls it, a missing capability has one name."""
    if error.code in (errno.EPERM, errno.EACCES):
        return "PRIVILEGE"
    return error.name


def _packet_socket() -> str:
    try:
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0).close()
    except OSError as error:
        if error.errno == errno.EPERM:
            return "packet sockets need the capability NET_RAW"
        return f"packet sockets do not work here: {error.strerror}"
    return ""


def _xdp_socket() -> str:
    needed = {"NET_RAW": rights.CAP_NET_RAW, "NET_ADMIN": rights.CAP_NET_ADMIN}
    needed |= {"BPF": rights.CAP_BPF}
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if soft not in (resource.RLIM_INFINITY, -1) and soft < XDP_LOCKED_BYTES:
        needed |= {"IPC_LOCK": rights.CAP_IPC_LOCK}
    if missing := [name for name, number in needed.items() if not rights.may(number)]:
        several = "capabilities" if len(missing) > 1 else "capability"
        return f"AF_XDP sockets and their program need the {several} {', '.join(missing)}"
    try:
        socket.socket(FAMILY_XDP, socket.SOCK_RAW, 0).close()
    except OSError as error:
        return f"AF_XDP sockets do not work here: {error.strerror}"
    return ""


def _netmap_device() -> str:
    try:
        os.close(os.open(vale.DEVICE, os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError:
        return (
            f"there is no {vale.DEVICE}: load the module netmap; without it vale, pipe and monitor "
            "ports are served by this switch's own engine"
        )
    except OSError as error:
        return f"{vale.DEVICE} cannot be opened: {error.strerror}"
    return ""


def _tun_device() -> str:
    try:
        os.close(os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError:
        return "/dev/net/tun is missing: load the module tun, or pass the device in"
    except OSError as error:
        return f"/dev/net/tun cannot be opened: {error.strerror}"
    return _net_admin()


def _net_admin() -> str:
    if rights.may(rights.CAP_NET_ADMIN):
        return ""
    return "making interfaces needs the capability NET_ADMIN"
