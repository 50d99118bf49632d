"""What a port can stand on: one class a type, all of one shape.

The forwarder's drivers take options as text, ``options()`` gives them; a field that is None is
left to the driver. A new type is a class here, its name in :data:`Backend`, and its driver.
"""

from __future__ import annotations

from collections.abc import Mapping
from mmap import PAGESIZE
from typing import Annotated, ClassVar, Literal

from pydantic import (
    AfterValidator,
    Field,
    StringConstraints,
    ValidationInfo,
    field_validator,
    model_validator,
)
from typing_extensions import TypeAliasType

from vswitch.filters import SNAPLEN, TEXT_MAX, compile_filter
from vswitch.kinds.resource import Spec
from vswitch.packet_filters import fanout_program, socket_filter
from vswitch.portspec import TEXT_MAX as PORTSPEC_MAX
from vswitch.portspec import Mode, Portspec, parse
from vswitch.values import (
    UDP_PORT_MAX,
    UDP_PORT_MIN,
    FileName,
    HostAddress,
    Identifier,
    InterfaceName,
    IpPrefix,
    Name,
    TapName,
    UdpEndpoint,
    ValePort,
    ValeSwitch,
    format_endpoint,
)

Queues = Annotated[int, Field(ge=1, le=16)]
RING_BYTES_MAX = 1 << 30
RING_SLOTS_MAX = 1 << 20
CHOSEN_BLOCK_BYTES = 65_536  # where a geometry names none
FilterExpression = Annotated[str, StringConstraints(max_length=TEXT_MAX)]


def _portspec(text: str) -> str:
    parse(text)
    return text


PortspecText = Annotated[
    str,
    StringConstraints(max_length=PORTSPEC_MAX),
    AfterValidator(_portspec),
    Field(
        description="netmap's name of a port or of a part of it: netmap:IF, with ^ (host rings), "
        "* (NIC and host), -N (one ring pair), {ID or }ID (a pipe beside it), /FLAGS, @N, "
        "@OPTION:KEY=VALUE; or valeSWITCH:PORT.",
        examples=["netmap:eth1", "netmap:eth1*", "netmap:eth1-0/x", "vale0:p1"],
    ),
]


class _Backend(Spec):
    def options(self) -> dict[str, str]:
        """Names and values as the driver reads them: numbers decimal, truth as 1 and 0."""
        return flatten(self.model_dump(by_alias=True, exclude={"type"}))

    def devices(self) -> tuple[str, ...]:
        """Kernel interfaces this port takes for itself."""
        return ()

    def files(self) -> tuple[str, ...]:
        """Files this port writes."""
        return ()

    def ends(self) -> tuple[str, ...]:
        """What else only one port may be, as the beginning of a sentence."""
        return ()

    def vale_nic(self) -> tuple[str, bool] | None:
        """The interface that a VALE switch of the kernel can take in, and whether the host's
        stack behind it comes along; None: this is none."""
        return None

    def carries_tags(self) -> bool:
        """Frames with VLAN tags can go through it."""
        return True

    def sockets(self) -> tuple[str, ...]:
        """UDP endpoints this port receives at, as text."""
        return ()

    def vale_switch(self) -> str | None:
        """The VALE switch it is a port of."""
        return None

    def filters(self) -> Mapping[str, str]:
        """Filter expressions by the member that holds them."""
        return {}

    def program(self, member: str) -> str:
        """What the driver gets of one of ``filters()``; FilterError."""
        return compile_filter(self.filters()[member])

    def monitored(self) -> str | None:
        """The port that this one watches."""
        return None


def flatten(fields: dict[str, object], prefix: str = "") -> dict[str, str]:
    options: dict[str, str] = {}
    for name, value in fields.items():
        if isinstance(value, dict):
            options |= flatten(value, f"{prefix}{name}_")
        elif isinstance(value, bool):
            options[prefix + name] = "1" if value else "0"
        elif value is not None:
            options[prefix + name] = str(value)
    return options


class RingGeometry(Spec):
    """A ring of packet slots, by the kernel's rules; null: chosen."""

    block_bytes: int | None = Field(
        None, ge=1, le=2**31 - 1, description="A multiple of the page size."
    )
    blocks: int | None = Field(None, ge=1, le=2**20)
    frame_bytes: int | None = Field(
        None,
        ge=112,
        le=2**31 - 1,
        multiple_of=16,
        description="Size of a slot, at most a block; none in a receive ring of version 3.",
    )

    @field_validator("block_bytes")
    @classmethod
    def _whole_pages(cls, value: int | None) -> int | None:
        if value is not None and value % PAGESIZE:
            raise ValueError(f"a block is a multiple of a page, {PAGESIZE} bytes")
        return value

    @field_validator("frame_bytes")
    @classmethod
    def _within_block(cls, value: int | None, info: ValidationInfo) -> int | None:
        block = info.data.get("block_bytes") or CHOSEN_BLOCK_BYTES
        if value is not None and value > block:
            raise ValueError(f"a slot lies within a block of {block} bytes")
        return value

    @model_validator(mode="after")
    def _bounded(self) -> RingGeometry:
        blocks, block = self.blocks or 1, self.block_bytes or CHOSEN_BLOCK_BYTES
        if self.bytes_min() > RING_BYTES_MAX:
            raise ValueError(f"a ring has at most {RING_BYTES_MAX} bytes")
        if self.frame_bytes and block // self.frame_bytes * blocks > RING_SLOTS_MAX:
            raise ValueError(f"a ring has at most {RING_SLOTS_MAX} slots")
        return self

    def bytes_min(self) -> int:
        """What a ring takes, as far as it is said."""
        return (self.blocks or 1) * (self.block_bytes or CHOSEN_BLOCK_BYTES)


class AfPacket(_Backend):
    """An existing interface of the host, through PACKET_MMAP rings."""

    type: Literal["af_packet"]
    ifname: InterfaceName
    version: Literal[1, 2, 3] | None = Field(
        None,
        description="TPACKET version; null: 2 for latency, 3 for throughput. Version 1 cannot "
        "carry VLAN tags: tagged frames are dropped as vlan_unsupported.",
    )
    ring: Literal["rx", "tx", "both"] = Field(
        "rx",
        description="Which rings it has. rx: it sends batches of messages. both: it sends through "
        "a ring, too. tx: it only sends.",
    )
    geometry: RingGeometry = Field(
        default_factory=RingGeometry,
        description="Of the receive ring; where there is none, of the send ring.",
    )
    retire_ms: int | None = Field(
        None,
        ge=1,
        le=10_000,
        description="Version 3: a block that is not full is handed over after this; null: 1.",
    )
    rxhash: bool = Field(False, description="Version 3: the kernel computes each frame's hash.")
    queues: Queues = Field(1, description="Sockets that share the interface's frames.")
    fanout: Literal["hash", "lb", "cpu", "rnd", "rollover", "qm", "cbpf", "ebpf"] = Field(
        "hash",
        description="How the kernel spreads frames over the queues. cbpf: by fanout_program. "
        "ebpf: by a hash of the IP addresses that is the same in both directions.",
    )
    fanout_program: FilterExpression | None = Field(
        None,
        description="pcap-filter(7) expression: what matches goes to the first queue, the rest "
        "is spread over the others by addresses. fanout cbpf only.",
    )
    fanout_rollover: bool = Field(False, description="A full queue's frames go to another one.")
    fanout_defrag: bool = Field(
        False,
        description="IP fragments are put together before they are spread, and come as one frame.",
    )
    fanout_group: Annotated[int, Field(ge=0, le=65_535)] | None = Field(
        None,
        description="A group to share with other programs; null: one that nobody else is in.",
    )
    filter: FilterExpression = Field(
        "",
        description="pcap-filter(7) expression without names: which frames the kernel hands over; "
        "empty: all.",
    )
    qdisc_bypass: bool = Field(
        False, description="Send without the queueing discipline; the host's tcpdump sees nothing."
    )
    timestamp: Literal["kernel", "software", "hardware"] = Field(
        "kernel",
        description="Whose time a received frame's slot bears, where the interface knows it. The "
        "status says which one it was.",
    )

    @model_validator(mode="after")
    def _belong_together(self) -> AfPacket:
        if (self.fanout == "cbpf") != (self.fanout_program is not None):
            raise ValueError("`fanout_program` and `fanout` cbpf go together")
        if self.fanout == "cbpf" and self.queues < 2:
            raise ValueError("`fanout` cbpf needs two `queues` or more")
        if self.fanout == "rollover" and self.fanout_rollover:
            raise ValueError("`fanout_rollover` is the way out of the other modes")
        if self.queues * self.geometry.bytes_min() > RING_BYTES_MAX:
            raise ValueError(f"the rings of all `queues` have at most {RING_BYTES_MAX} bytes")
        if self.version != 3 and (self.retire_ms is not None or self.rxhash):
            raise ValueError("`retire_ms` and `rxhash` need `version` 3")
        packed = self.version not in (1, 2) and self.ring != "tx"
        if packed and self.geometry.frame_bytes is not None:
            raise ValueError("`geometry.frame_bytes` needs `version` 1 or 2: 3 packs its frames")
        return self

    def devices(self) -> tuple[str, ...]:
        return (self.ifname,)

    def filters(self) -> Mapping[str, str]:
        found = {"filter": self.filter}
        if self.fanout_program is not None:
            found["fanout_program"] = self.fanout_program
        return found

    def program(self, member: str) -> str:
        expression = self.filters()[member]
        if member == "fanout_program":
            return fanout_program(expression, self.queues)
        return socket_filter(expression)

    def options(self) -> dict[str, str]:
        return super().options() | {member: self.program(member) for member in self.filters()}


class AfXdp(_Backend):
    """An existing interface of the host, through AF_XDP sockets: an XDP program brings each
    frame before the host's stack to the switch. It is there as long as the port is."""

    type: Literal["af_xdp"]
    ifname: InterfaceName
    queues: Queues | None = Field(
        None,
        description="How many of the interface's receive queues, from the first on, are the "
        "port's; null: all (16 at most). Frames of the others go to the host's stack.",
    )

    def devices(self) -> tuple[str, ...]:
        return (self.ifname,)


class Tap(_Backend):
    """A TAP interface that the port makes; the host or a virtual machine is on the other side."""

    type: Literal["tap"]
    name: TapName
    queues: Queues = 1
    persistent: bool = Field(False, description="The interface stays when the port goes.")

    @model_validator(mode="after")
    def _known_again(self) -> Tap:
        if self.persistent and "%" in self.name:
            raise ValueError("a persistent TAP needs a name to be found again by, without %d")
        return self

    def devices(self) -> tuple[str, ...]:
        return () if "%" in self.name else (self.name,)


class Tun(_Backend):
    """A TUN interface that the port makes: an IP stack without Ethernet as a station of the bridge.

    The port has an Ethernet address of its own, finds neighbours by ARP and ND and answers both
    for what is behind it.
    """

    type: Literal["tun"]
    name: TapName
    address: IpPrefix | None = Field(
        None,
        description="Address or prefix behind the interface, for which the port answers from the "
        "start; null: for what it finds there.",
    )
    persistent: bool = Field(False, description="The interface stays when the port goes.")

    @model_validator(mode="after")
    def _known_again(self) -> Tun:
        if self.persistent and "%" in self.name:
            raise ValueError("a persistent TUN needs a name to be found again by, without %d")
        return self

    def devices(self) -> tuple[str, ...]:
        return () if "%" in self.name else (self.name,)

    def carries_tags(self) -> bool:
        return False


class VethPeer(Spec):
    """The other end of a veth pair."""

    name: InterfaceName
    netns: InterfaceName | None = Field(
        None, description="Name of a network namespace below /run/netns to move it into."
    )


class Veth(_Backend):
    """A veth pair that the port makes and removes."""

    type: Literal["veth"]
    name: InterfaceName
    peer: VethPeer

    @model_validator(mode="after")
    def _two_names(self) -> Veth:
        if self.peer.netns is None and self.name == self.peer.name:
            raise ValueError("the two ends of a veth pair need different names")
        return self

    def options(self) -> dict[str, str]:
        options = {"name": self.name, "peer": self.peer.name}
        return options if self.peer.netns is None else options | {"netns": self.peer.netns}

    def devices(self) -> tuple[str, ...]:
        return (self.name,)


class Pipe(_Backend):
    """One end of a pipe: two ports that share memory. A full pipe makes its sender wait."""

    type: Literal["pipe"]
    name: Identifier = Field(description="The two ports that name it are its two ends.")
    end: Literal["master", "slave"]
    queues: Queues = Field(1, description="Of each direction; both ends say the same.")

    def ends(self) -> tuple[str, ...]:
        return (f"The {self.end} end of pipe {self.name}",)


class Netmap(_Backend):
    """What the netmap kernel module serves: an interface's rings, its host's, a pipe, VALE."""

    type: Literal["netmap"]
    portspec: PortspecText

    @property
    def parsed(self) -> Portspec:
        return parse(self.portspec)

    def devices(self) -> tuple[str, ...]:
        spec = self.parsed
        whole = spec.mode in (Mode.ALL_NIC, Mode.NIC_SW) and not spec.port.pipe
        return (spec.port.ifname,) if whole and spec.port.ifname and not spec.monitor else ()

    def vale_nic(self) -> tuple[str, bool] | None:
        name, _, rings = self.portspec.removeprefix("netmap:").partition("*")
        return (name, "*" in self.portspec) if self.devices() == (name,) and not rings else None


class Vale(_Backend):
    """A port of a VALE switch, which is made with its first port and goes with its last one.

    In a bridge: the switch and the bridge are joined. In none: a place for a netmap program, which
    opens it by its name, "vale0:p1".
    """

    type: Literal["vale"]
    switch: ValeSwitch
    port: ValePort
    queues: Queues = Field(
        1, description="Ring pairs that a program finds; of no meaning in a bridge: 1."
    )

    @property
    def full_name(self) -> str:
        """As netmap writes it: "vale0:p1"."""
        return f"{self.switch}:{self.port}"

    def ends(self) -> tuple[str, ...]:
        return (f"Port {self.port} of switch {self.switch}",)

    def vale_switch(self) -> str:
        return self.switch


class Memory(_Backend):
    """Rings in the forwarder's own memory, for tests and benchmarks."""

    type: Literal["memory"]


class Generate(Spec):
    """Frames that a null port makes by itself."""

    frames_per_s: int = Field(ge=1, le=100_000_000)
    bytes: int = Field(60, ge=60, le=9014, description="Length without the checksum.")
    macs: int = Field(1, ge=1, le=1_000_000, description="Number of source addresses.")


class Null(_Backend):
    """Discards what it is sent; sends only when told to generate."""

    type: Literal["null"]
    generate: Generate | None = None


class Pcap(_Backend):
    """Frames from a file, frames into a file."""

    type: Literal["pcap"]
    in_: FileName | None = Field(None, alias="in", description="File that is replayed.")
    out: FileName | None = Field(None, description="File that is written.")
    rate: int | None = Field(
        None,
        ge=0,
        le=100_000_000,
        description="Frames a second; 0: as fast as they are taken; null: with the recorded gaps.",
    )
    loop: bool = Field(False, description="Begin again at the file's end.")

    @model_validator(mode="after")
    def _some_file(self) -> Pcap:
        if self.in_ is None and self.out is None:
            raise ValueError("a pcap port needs `in` or `out`")
        if self.in_ == self.out:
            raise ValueError("`in` and `out` are one file")
        return self

    def files(self) -> tuple[str, ...]:
        return () if self.out is None else (self.out,)


class Monitor(_Backend):
    """Receives copies of what another port receives and sends; sends nothing itself.

    Put it into a bridge of its own with whoever shall see the copies: a tap, a pcap file.
    """

    type: Literal["monitor"]
    port: Name
    direction: Literal["rx", "tx", "both"] = Field(
        "both", description="What is copied: frames that the port receives, sends, or both."
    )
    filter: FilterExpression = Field(
        "", description="pcap-filter(7) expression without names: which frames; empty: all."
    )
    snaplen: int = Field(
        SNAPLEN, ge=14, le=SNAPLEN, description="Bytes of a frame that are copied at most."
    )

    def options(self) -> dict[str, str]:
        return super().options() | {"filter": compile_filter(self.filter)}

    def filters(self) -> Mapping[str, str]:
        return {"filter": self.filter}

    def monitored(self) -> str:
        return self.port


Vni = Annotated[int, Field(ge=1, le=0xFFFFFF, description="Network identifier of the tunnel.")]


def _distinct_peers(peers: tuple[str, ...], local: str) -> None:
    """What must hold among the ends of one tunnel port; they are in canonical form."""
    for peer in peers:
        if peer == local:
            raise ValueError(f"{peer} is the local address")
        if ("." in peer) != ("." in local):
            raise ValueError(f"{peer} and {local} are not of one IP version")
    if len(set(peers)) != len(peers):
        raise ValueError("a peer is named twice")


class Vxlan(_Backend):
    """A VXLAN network (RFC 7348) with static peers; frames for all go to each of them."""

    OVERHEAD: ClassVar[int] = 50  # over IPv4; IPv6 is 20 more

    type: Literal["vxlan"]
    vni: Vni
    local: HostAddress
    remotes: Annotated[tuple[HostAddress, ...], Field(strict=False, min_length=1, max_length=64)]
    port: int = Field(4789, ge=UDP_PORT_MIN, le=UDP_PORT_MAX, description="UDP port of all ends.")
    source_ports: int = Field(
        8, ge=1, le=16, description="UDP source ports that flows are spread over; a socket each."
    )
    queues: Queues = 1

    @field_validator("remotes")
    @classmethod
    def _others(cls, remotes: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if "local" in info.data:
            _distinct_peers(remotes, info.data["local"])
        return remotes

    def options(self) -> dict[str, str]:
        return super().options() | {"remotes": ",".join(self.remotes)}

    def sockets(self) -> tuple[str, ...]:
        return (format_endpoint(self.local, self.port),)


class Udp(_Backend):
    """Ethernet in UDP between static peers, in the encapsulation of docs/overlay.md."""

    OVERHEAD: ClassVar[int] = 50

    type: Literal["udp"]
    vni: Vni
    local: UdpEndpoint
    peers: Annotated[tuple[UdpEndpoint, ...], Field(strict=False, min_length=1, max_length=64)]
    queues: Queues = 1

    @field_validator("peers")
    @classmethod
    def _others(cls, peers: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if "local" in info.data:
            _distinct_peers(peers, info.data["local"])
        return peers

    def options(self) -> dict[str, str]:
        return super().options() | {"peers": ",".join(self.peers)}

    def sockets(self) -> tuple[str, ...]:
        return (self.local,)


Backend = TypeAliasType(
    "Backend",
    Annotated[
        AfPacket
        | AfXdp
        | Tap
        | Tun
        | Veth
        | Netmap
        | Pipe
        | Vale
        | Memory
        | Null
        | Pcap
        | Monitor
        | Vxlan
        | Udp,
        Field(discriminator="type"),
    ],
)
TYPES: tuple[str, ...] = (
    "af_packet",
    "af_xdp",
    "tap",
    "tun",
    "veth",
    "netmap",
    "pipe",
    "vale",
    "memory",
    "null",
    "pcap",
    "monitor",
    "vxlan",
    "udp",
)
