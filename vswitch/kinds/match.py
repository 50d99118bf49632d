"""What a rule matches: parts of a frame's headers, all of which have to fit."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from vswitch.kinds import terms
from vswitch.kinds.resource import Partial, fault_at
from vswitch.kinds.terms import (
    ArpAddressTerm,
    ArpOp,
    EthType,
    IpProto,
    IpTerm,
    MacTerm,
    PortTerms,
    TcpFlags,
    VlanIds,
)
from vswitch.values import Name

_ICMP, _TCP, _UDP, _ICMPV6 = (((n, n),) for n in (1, 6, 17, 58))
_PORTS = (*_TCP, *_UDP)
_VERSIONS = {0x0800: 4, 0x86DD: 6}
Byte = Annotated[int, Field(ge=0, le=255)]
State = Literal["new", "established", "related", "invalid"]


class _Part(Partial):
    """One header. An empty one would match every frame, which nobody means who writes it."""

    @model_validator(mode="after")
    def _says_something(self) -> _Part:
        if all(getattr(self, name) is None for name in type(self).__pydantic_fields__):
            raise ValueError("an empty part says nothing: leave it out, or name a field")
        return self


class EthMatch(_Part):
    src: MacTerm | None = None
    dst: MacTerm | None = None
    type: EthType | None = None


class VlanMatch(_Part):
    vid: VlanIds | None = None
    pcp: Annotated[int, Field(ge=0, le=7)] | None = Field(
        None, description="Priority of the first tag."
    )
    tagged: bool | None = Field(
        None, description="Did the frame come with a VLAN tag (a priority tag counts)?"
    )


class ArpMatch(_Part):
    """ARP (RFC 826) for IPv4 over Ethernet."""

    op: ArpOp | None = None
    spa: ArpAddressTerm | None = Field(None, description="The sender's IPv4 address.")
    tpa: ArpAddressTerm | None = Field(None, description="The target's IPv4 address.")
    sha: MacTerm | None = Field(None, description="The sender's MAC address.")
    tha: MacTerm | None = Field(None, description="The target's MAC address.")


class IpMatch(_Part):
    version: Literal[4, 6] | None = None
    src: IpTerm | None = None
    dst: IpTerm | None = None
    proto: IpProto | None = None
    dscp: Annotated[int, Field(ge=0, le=63)] | None = None
    ttl: Byte | None = Field(None, description="TTL, of IPv6 the hop limit.")
    frag: Literal["first", "later", "any", "none"] | None = Field(
        None,
        description="first: the first fragment, which has the ports; later: the others; any: one "
        "of both; none: no fragment.",
    )

    @model_validator(mode="after")
    def _one_version(self) -> IpMatch:
        self.known_version()
        return self

    def known_version(self) -> int | None:
        """What version, address or protocol say, all of which have to agree."""
        known: int | None = self.version
        for name, text in (("src", self.src), ("dst", self.dst)):
            if text is None or terms.group_of(text):
                continue
            version = 6 if ":" in text else 4
            if known not in (None, version):
                raise fault_at((name,), f"{text} is IPv{version}, the rest of the match IPv{known}")
            known = version
        return known


class L4Match(_Part):
    """TCP and UDP. Fragments behind the first have no ports and never match."""

    sport: PortTerms | None = None
    dport: PortTerms | None = None
    tcp_flags: TcpFlags | None = None

    @model_validator(mode="after")
    def _group_alone(self) -> L4Match:
        for name, texts in (("sport", self.sport), ("dport", self.dport)):
            for index, text in enumerate(texts or ()):
                if terms.group_of(text) and len(texts or ()) > 1:
                    raise fault_at((name, index), "a group is the only member of its list")
        return self


class IcmpMatch(_Part):
    """ICMPv6 where `ip` says IPv6 or icmpv6, else ICMP."""

    type: Byte | None = None
    code: Byte | None = None


class Match(Partial):
    """All parts have to fit; what is left out does not matter."""

    in_port: Name | None = Field(None, description="The port that the frame came in by.")
    eth: EthMatch | None = None
    vlan: VlanMatch | None = None
    arp: ArpMatch | None = None
    ip: IpMatch | None = None
    l4: L4Match | None = None
    icmp: IcmpMatch | None = None
    state: (
        Annotated[
            tuple[State, ...],
            Field(
                strict=False, min_length=1, max_length=4, json_schema_extra={"uniqueItems": True}
            ),
        ]
        | None
    ) = Field(None, description="States of the frame's connection; one of them has to fit.")

    @property
    def icmp_version(self) -> int:
        """4 or 6: which ICMP `icmp` speaks of."""
        if self.ip is None:
            return 4
        proto = self._proto()
        return 6 if proto == _ICMPV6 else 4 if proto == _ICMP else self.ip.known_version() or 4

    def _proto(self) -> tuple[terms.Range, ...] | None:
        given = self.ip.proto if self.ip else None
        return None if given is None else terms.protocols(given)

    @model_validator(mode="after")
    def _possible(self) -> Match:
        """A match that no frame can fit is a mistake; it is said where."""
        self._ethernet_agrees()
        self._ip_agrees()
        self._transport_agrees()
        if self.state is not None and len(set(self.state)) != len(self.state):
            raise fault_at(("state",), "a state is named twice")
        if self.vlan and self.vlan.tagged is False and self.vlan.pcp is not None:
            raise fault_at(("vlan", "pcp"), "a frame without a tag has no priority")
        return self

    def _ethernet_agrees(self) -> None:
        given = terms.eth_type(self.eth.type) if self.eth and self.eth.type else None
        for name in ("ip", "l4", "icmp", "state"):
            if getattr(self, name) is None:
                continue
            if self.arp is not None:
                raise fault_at(("arp",), f"no frame is ARP and has `{name}`")
            if given is not None and given not in _VERSIONS:
                raise fault_at(("eth", "type"), f"`{name}` needs ipv4 or ipv6")
        if self.arp is not None and given not in (None, terms.ETH_TYPES["arp"]):
            raise fault_at(("eth", "type"), "`arp` needs arp")
        version = self.ip.known_version() if self.ip else None
        if version and given is not None and _VERSIONS[given] != version:
            raise fault_at(("eth", "type"), f"the rest of the match is IPv{version}")

    def _ip_agrees(self) -> None:
        proto, version = self._proto(), self.ip.known_version() if self.ip else None
        if proto == _ICMPV6 and version == 4:
            raise fault_at(("ip", "proto"), "icmpv6 is IPv6's, the rest of the match IPv4")
        if proto == _ICMP and version == 6:
            raise fault_at(("ip", "proto"), "icmp is IPv4's: IPv6 has icmpv6")

    def _transport_agrees(self) -> None:
        proto = self._proto()
        if self.l4 is not None:
            if self.icmp is not None:
                raise fault_at(("icmp",), "no frame has ports and is ICMP")
            if proto is not None and not set(proto) <= set(_PORTS):
                raise fault_at(("l4",), "ports are those of tcp and udp")
            if self.l4.tcp_flags is not None and proto not in (None, _TCP):
                raise fault_at(("l4", "tcp_flags"), "only tcp has flags")
        if self.icmp is not None and proto not in (None, _ICMP, _ICMPV6):
            raise fault_at(("icmp",), "`icmp` needs proto icmp or icmpv6")
        if self.ip and self.ip.frag == "later" and (self.l4 or self.icmp):
            raise fault_at(("ip", "frag"), "fragments behind the first have no layer 4 header")
