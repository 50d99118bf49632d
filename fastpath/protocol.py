"""THE wire between control plane and forwarder: messages, framing, hashes. No I/O.

A message is a 4-byte big-endian length and that many bytes of MessagePack holding one tagged
struct. Either side may send any number of bytes at a time; :class:`Decoder` takes them as they
come. A request carries an ``id`` that its reply repeats; ``Event`` has none and may come at any
time. A connection begins with ``Hello`` from the client and ``Welcome`` from the forwarder.

Configuration travels as a delta (``Apply``) when the forwarder's hash is the one the delta was
made against, else as a snapshot: ``Begin``, bounded ``Chunk`` messages, ``Commit``. Nothing of a
snapshot is visible before ``Commit``; other requests are answered in between.

Only msgspec and the standard library are imported here, so that either half can use it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator

import msgspec

VERSION = 1
MESSAGE_BYTES_MAX = 1 << 20
HASH_BYTES = 16


class ProtocolError(Exception):
    """The peer sent something that is not a message of this protocol."""


# --- configuration objects: every field is materialised, the forwarder knows no defaults ---------
# gc=False where there are thousands: they hold no cycles, and the collector need not look at them.


class WireClients(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Netmap programs on a bridge. ``mode``: relay or direct.

    ``uids``, ``gids``: who may, besides root and the switch's own users.
    """

    mode: str = "relay"
    uids: tuple[int, ...] = ()
    gids: tuple[int, ...] = ()


class WireBridge(
    msgspec.Struct, frozen=True, tag_field="t", tag="bridge", forbid_unknown_fields=True
):
    """A software bridge. ``ageing_s`` 0: never; ``mtu`` 0: no limit."""

    name: str
    vlan_filtering: bool
    learning: bool
    ageing_s: int
    fdb_entries_max: int
    flood_unknown_unicast: bool
    flood_multicast: bool
    flood_broadcast: bool
    reserved_forward: bool
    mtu: int
    clients: WireClients = WireClients()

    @property
    def key(self) -> str:
        return f"bridge/{self.name}"


class WirePort(msgspec.Struct, frozen=True, tag_field="t", tag="port", forbid_unknown_fields=True):
    """A port and its device. ``tagged``: pairs (first, last) of VLAN ids, inclusive."""

    name: str
    type: str
    options: dict[str, str]
    bridge: str | None
    admin_up: bool
    learning: bool
    flood: bool
    isolation_group: int
    vlan_mode: str
    pvid: int
    tagged: tuple[tuple[int, int], ...]
    offload_policy: str
    polling: str
    cpus: tuple[int, ...]

    @property
    def key(self) -> str:
        return f"port/{self.name}"


class WireStatic(
    msgspec.Struct, frozen=True, gc=False, tag_field="t", tag="static", forbid_unknown_fields=True
):
    """A static FDB entry. ``mac`` as six lower-case pairs with colons; ``vid`` 0: no VLANs."""

    bridge: str
    mac: str
    vid: int
    port: str

    @property
    def key(self) -> str:
        return f"static/{self.bridge}/{self.mac}/{self.vid}"


class WireGroup(
    msgspec.Struct, frozen=True, gc=False, tag_field="t", tag="group", forbid_unknown_fields=True
):
    """A named set of addresses, stations or ports that rules refer to.

    ``masks``: (value, mask) of 4 bytes (IPv4), 16 (IPv6) or 6 (MAC); ``ranges``: (first, last) of
    layer 4 ports. One of the two is empty.
    """

    name: str
    masks: tuple[tuple[bytes, bytes], ...]
    ranges: tuple[tuple[int, int], ...]

    @property
    def key(self) -> str:
        return f"group/{self.name}"


class WirePolicer(
    msgspec.Struct, frozen=True, gc=False, tag_field="t", tag="policer", forbid_unknown_fields=True
):
    """``unit`` "bits": rate in bit/s, burst in bytes; "frames": frames/s and frames."""

    name: str
    unit: str
    rate: int
    burst: int

    @property
    def key(self) -> str:
        return f"policer/{self.name}"


class WireAttach(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """Where a set is asked: one of ``bridge`` and ``port``, the other is ""."""

    bridge: str
    port: str
    egress: bool
    order: int


class WireRuleSet(
    msgspec.Struct, frozen=True, gc=False, tag_field="t", tag="ruleset", forbid_unknown_fields=True
):
    """A set without its rules, which are objects of their own."""

    name: str
    default_drop: bool
    attach: tuple[WireAttach, ...]

    @property
    def key(self) -> str:
        return f"ruleset/{self.name}"


class WireTerm(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """One field of a match; the frame fits when one of the alternatives does.

    ``field``: in_port eth_dst eth_src eth_type vlan_tagged vlan_vid vlan_pcp ip_version ip_src
    ip_dst ip_proto ip_dscp ip_ttl fragment l4_src l4_dst tcp_flags icmp_type icmp_code icmpv6_type
    icmpv6_code arp_op arp_spa arp_tpa arp_sha arp_tha state.

    ``masks``: (value, mask) in network byte order, of the field's own size (addresses of IP: 4 or
    16 bytes, which also says the version; one byte otherwise, two for eth_type, vlan_vid and
    arp_op). vlan_tagged: 1 or 0. ``ranges``: (first, last) of l4_src and l4_dst. ``words``: names
    of ports for in_port; first later any none for fragment; new established related invalid for
    state. ``group``: the alternatives are the group's.
    """

    field: str
    masks: tuple[tuple[bytes, bytes], ...] = ()
    ranges: tuple[tuple[int, int], ...] = ()
    words: tuple[str, ...] = ()
    group: str = ""


class WireAction(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """``type``: allow drop reject redirect mirror police set log jump. None: is not set.

    ``vlan`` 0 in a bridge that filters no VLANs: the tag is taken off.
    """

    type: str
    port: str = ""
    snaplen: int = 0
    policer: str = ""
    ruleset: str = ""
    vlan: int | None = None
    pcp: int | None = None
    dscp: int | None = None
    eth_src: str = ""
    eth_dst: str = ""


class WireRule(
    msgspec.Struct, frozen=True, gc=False, tag_field="t", tag="rule", forbid_unknown_fields=True
):
    """A rule that is enabled. All of ``match`` has to fit. ``expires_at``: Unix time; 0: never."""

    ruleset: str
    id: str
    priority: int
    match: tuple[WireTerm, ...]
    action: WireAction
    log: bool
    expires_at: int

    @property
    def key(self) -> str:
        return f"rule/{self.ruleset}/{self.id}"


WireObject = WireBridge | WirePort | WireStatic | WireGroup | WirePolicer | WireRuleSet | WireRule


# --- client to forwarder ------------------------------------------------------------------------


class Hello(msgspec.Struct, frozen=True, tag_field="t", tag="hello"):
    proto: int
    build: str


class Apply(msgspec.Struct, frozen=True, tag_field="t", tag="apply"):
    """A delta: valid only on a forwarder whose hash is ``base_hash``."""

    id: int
    revision: int
    base_hash: bytes
    hash: bytes
    upserts: tuple[WireObject, ...]
    deletes: tuple[str, ...]


class Begin(msgspec.Struct, frozen=True, tag_field="t", tag="begin"):
    id: int
    revision: int
    hash: bytes


class Chunk(msgspec.Struct, frozen=True, tag_field="t", tag="chunk"):
    """Part of a snapshot; not answered."""

    objects: tuple[WireObject, ...]


class Commit(msgspec.Struct, frozen=True, tag_field="t", tag="commit"):
    id: int


class GetStats(msgspec.Struct, frozen=True, tag_field="t", tag="get_stats"):
    id: int


class GetStatus(msgspec.Struct, frozen=True, tag_field="t", tag="get_status"):
    """``rules_only``: nothing of ports and bridges, whose counters and devices take their time."""

    id: int
    rules_only: bool = False


class GetFdb(msgspec.Struct, frozen=True, tag_field="t", tag="get_fdb"):
    """Rows from table position ``cursor``; at most ``limit``."""

    id: int
    bridge: str
    cursor: int
    limit: int


class FlushFdb(msgspec.Struct, frozen=True, tag_field="t", tag="flush_fdb"):
    id: int
    bridge: str
    port: str | None
    vid: int | None


class Ping(msgspec.Struct, frozen=True, tag_field="t", tag="ping"):
    id: int


class GetRuleCounters(msgspec.Struct, frozen=True, tag_field="t", tag="get_rule_counters"):
    """Of a set's rules in their order, from position ``cursor``; at most ``limit``."""

    id: int
    ruleset: str
    cursor: int
    limit: int


class Trace(msgspec.Struct, frozen=True, tag_field="t", tag="trace"):
    """What would become of this frame? Moves nothing, counts nothing, learns nothing.

    ``state``: a connection state to assume; "": what the table of connections says.
    """

    id: int
    in_port: str
    frame: bytes
    state: str = ""


class Analyse(msgspec.Struct, frozen=True, tag_field="t", tag="analyse"):
    """Findings about a set's rules from the one at ``cursor`` on; takes a bounded time."""

    id: int
    ruleset: str
    cursor: int


class ConnectionQuery(msgspec.Struct, frozen=True):
    """Those of a bridge, a port that they began on, an IP address at either end, an IP protocol, a
    state ("new", "established"); "" and 0: any."""

    bridge: str = ""
    port: str = ""
    address: str = ""
    proto: int = 0
    state: str = ""


class GetConnections(msgspec.Struct, frozen=True, tag_field="t", tag="get_connections"):
    """``limit`` 0: only how many there are."""

    id: int
    query: ConnectionQuery
    cursor: int
    limit: int


class FlushConnections(msgspec.Struct, frozen=True, tag_field="t", tag="flush_connections"):
    """Answered by ``Flushed``."""

    id: int
    query: ConnectionQuery


class GetClients(msgspec.Struct, frozen=True, tag_field="t", tag="get_clients"):
    """Sessions of netmap programs with an id above ``cursor``; at most ``limit``."""

    id: int
    cursor: int
    limit: int


class EvictClient(msgspec.Struct, frozen=True, tag_field="t", tag="evict_client"):
    """Take the port from session ``client``; answered by ``Evicted``, or NOT_FOUND."""

    id: int
    client: int


# --- forwarder to client ------------------------------------------------------------------------


class Welcome(msgspec.Struct, frozen=True, tag_field="t", tag="welcome"):
    """``epoch`` differs for each forwarder process; ``capabilities`` are facts about this host.

    ``port_types``: type -> "" when it works here, else the sentence that says what is missing.
    """

    proto: int
    build: str
    epoch: str
    pid: int
    applied_revision: int
    config_hash: bytes
    port_types: dict[str, str]
    limits: dict[str, int]


class Outcome(msgspec.Struct, frozen=True):
    """What became of one object. ``code`` is "" when it is in force.

    ``field``: of a rule that is not, the part of it that is at fault: match.ip_src, action.port.
    """

    code: str = ""
    message: str = ""
    hint: str = ""
    field: str = ""

    @property
    def ok(self) -> bool:
        return not self.code


class Ack(msgspec.Struct, frozen=True, tag_field="t", tag="ack"):
    """The configuration is in force, except for the objects whose outcome says why not."""

    id: int
    revision: int
    hash: bytes
    outcomes: dict[str, Outcome]


class Refused(msgspec.Struct, frozen=True, tag_field="t", tag="refused"):
    """The request was not carried out. ``HASH_MISMATCH``: send a snapshot instead."""

    id: int
    code: str
    message: str


class QueueStats(msgspec.Struct, frozen=True):
    id: int
    thread: str
    cpu: int
    rx_frames: int
    rx_bytes: int
    tx_frames: int
    tx_bytes: int
    drops: dict[str, int]
    batches: int
    sleeps: int
    busy_ns: int


class PortStats(msgspec.Struct, frozen=True):
    """Frames and bytes since the port was made. ``kernel_drops`` are outside the ledger.

    ``zero_copy_frames``: of ``tx_frames``, those whose buffers changed hands.
    """

    name: str
    rx_frames: int
    rx_bytes: int
    tx_frames: int
    tx_bytes: int
    rx_drops: dict[str, int]
    tx_drops: dict[str, int]
    copies: int
    segments: int
    originated: int
    consumed: int
    kernel_drops: int
    learned: int
    moved: int
    queues: tuple[QueueStats, ...]
    zero_copy_frames: int = 0

    @property
    def copied_frames(self) -> int:
        return self.tx_frames - self.zero_copy_frames


class Ledger(msgspec.Struct, frozen=True):
    """Switch-wide sums; ``in_flight`` = rx + copies + segments + originated - the rest."""

    rx_frames: int
    copies: int
    segments: int
    originated: int
    tx_frames: int
    drops: int
    consumed: int
    in_flight: int


class Stats(msgspec.Struct, frozen=True, tag_field="t", tag="stats"):
    id: int
    ports: tuple[PortStats, ...]
    ledger: Ledger


class PortState(msgspec.Struct, frozen=True):
    """What the forwarder sees of a port. ``outcome`` as in :class:`Ack`.

    ``mem_region``: netmap's, 0 where the port has none.
    """

    name: str
    outcome: Outcome
    link_up: bool
    lost: bool
    mtu: int
    ifindex: int
    mac: str
    caps: tuple[str, ...]
    detail: str
    device: str
    rx_queues: int
    tx_queues: int
    offloads_ok: bool
    offloads_message: str
    mem_region: int = 0


class BridgeState(msgspec.Struct, frozen=True):
    name: str
    outcome: Outcome
    fdb_entries: int


class RuleSetState(msgspec.Struct, frozen=True):
    """``rules`` in force, the ``matches`` they were expanded to, ``tables`` and ``bytes`` of the
    compiled form; ``failed``: by id, rules that are not in force, a bounded number of them."""

    name: str
    outcome: Outcome
    rules: int
    matches: int
    tables: int
    bytes: int
    failed: dict[str, Outcome]


class PolicerState(msgspec.Struct, frozen=True):
    """Frames within the rate and beyond it."""

    name: str
    outcome: Outcome
    passed: int
    dropped: int


class Status(msgspec.Struct, frozen=True, tag_field="t", tag="status"):
    """``statics``: by key, the static entries that are not in force; a bounded number of them.

    ``vale``: the ports of the netmap module's VALE switches, whoever made them, by switch.
    """

    id: int
    applied_revision: int
    config_hash: bytes
    generation: int
    keeper_connected: bool
    restarts: int
    ports: tuple[PortState, ...]
    bridges: tuple[BridgeState, ...]
    statics: dict[str, Outcome]
    vale: dict[str, tuple[str, ...]] = {}
    rulesets: tuple[RuleSetState, ...] = ()
    policers: tuple[PolicerState, ...] = ()


class FdbRow(msgspec.Struct, frozen=True):
    mac: str
    vid: int
    port: str
    static: bool
    age_s: int
    moves: int


class Fdb(msgspec.Struct, frozen=True, tag_field="t", tag="fdb"):
    """``cursor`` 0: that was all."""

    id: int
    rows: tuple[FdbRow, ...]
    cursor: int


class Flushed(msgspec.Struct, frozen=True, tag_field="t", tag="flushed"):
    id: int
    entries: int


class Pong(msgspec.Struct, frozen=True, tag_field="t", tag="pong"):
    id: int


class RuleHits(msgspec.Struct, frozen=True, array_like=True):
    """``last_hit``: Unix time; 0: never."""

    id: str
    frames: int
    bytes: int
    last_hit: int


class RuleCounters(msgspec.Struct, frozen=True, tag_field="t", tag="rule_counters"):
    """``cursor`` 0: that was all."""

    id: int
    rows: tuple[RuleHits, ...]
    cursor: int


class TraceRule(msgspec.Struct, frozen=True):
    """A rule that was looked at. ``field`` "": it matched; else the first field that did not, with
    what the rule wants there and what the frame has, as texts."""

    ruleset: str
    rule: str
    action: str
    field: str
    wanted: str
    got: str


class TraceStage(msgspec.Struct, frozen=True):
    """``stage``: parse vlan_in rules_ingress fdb flood rules_egress tx; ``port``: that it is about,
    "": none. ``result``: one word; ``detail``: a sentence. ``rules_left_out``: not matching rules
    beyond those listed."""

    stage: str
    port: str
    result: str
    detail: str
    rules: tuple[TraceRule, ...] = ()
    rules_left_out: int = 0


class Traced(msgspec.Struct, frozen=True, tag_field="t", tag="traced"):
    """``verdict``: forward drop reject consumed; ``reason``: of the ledger, "" when forwarded.

    ``fields``: what was read of the frame, by the names of :class:`WireTerm`, as texts.
    """

    id: int
    generation: int
    verdict: str
    reason: str
    out_ports: tuple[str, ...]
    fields: dict[str, str]
    stages: tuple[TraceStage, ...]


class Finding(msgspec.Struct, frozen=True):
    """``kind``: shadowed (an earlier rule takes all its frames and does something else), redundant
    (... and does the same), contradictory (same match, other action, same priority), never_hit.

    ``by``: the other rule; ``witness``: a frame that both match, as bytes; ``in_port`` to trace it
    from, "" when the set is attached nowhere it could come in; ``state``: to assume for that."""

    kind: str
    rule: str
    by: str
    witness: bytes
    in_port: str
    state: str = ""


class Analysed(msgspec.Struct, frozen=True, tag_field="t", tag="analysed"):
    """``cursor`` 0: that was all. ``skipped``: rules with too many alternatives to compare."""

    id: int
    findings: tuple[Finding, ...]
    cursor: int
    skipped: int = 0


class Connection(msgspec.Struct, frozen=True):
    """``src`` began it. ICMP: ``src_port`` and ``dst_port`` are the identifier."""

    bridge: str
    vid: int
    port: str
    proto: int
    src: str
    dst: str
    src_port: int
    dst_port: int
    state: str
    tcp_state: str
    expires_s: int
    frames: tuple[int, int]
    bytes: tuple[int, int]


class Connections(msgspec.Struct, frozen=True, tag_field="t", tag="connections"):
    """``cursor`` 0: that was all. ``count`` of ``max`` are in the table."""

    id: int
    rows: tuple[Connection, ...]
    cursor: int
    count: int
    max: int


class ClientRow(msgspec.Struct, frozen=True):
    """A session: what one open of /dev/netmap is bound to.

    ``name`` as the program gave it; ``switch`` "" and ``port`` "" for a pipe's end, else the names
    of bridge and port. ``mode``: relay direct pipe monitor. ``pid`` connected; others may hold the
    connection by now. ``program`` is what it calls itself. ``connected_at``: Unix time. ``syncs``,
    ``sleeps``, ``invalid`` (slots that made no sense) are the program's own count; frames and bytes
    are those from and to it, ``drops`` those for which its memory had no room, of the whole port.
    """

    id: int
    name: str
    switch: str
    port: str
    pid: int
    uid: int
    gid: int
    program: str
    mode: str
    tx_rings: int
    rx_rings: int
    tx_slots: int
    rx_slots: int
    mem_id: int
    connected_at: float
    syncs: int
    sleeps: int
    invalid: int
    frames_from: int
    bytes_from: int
    frames_to: int
    bytes_to: int
    drops: int


class ClientRows(msgspec.Struct, frozen=True, tag_field="t", tag="client_rows"):
    """By id. ``cursor`` 0: that was all."""

    id: int
    rows: tuple[ClientRow, ...]
    cursor: int


class Evicted(msgspec.Struct, frozen=True, tag_field="t", tag="evicted"):
    id: int


class RuleLogRow(msgspec.Struct, frozen=True, array_like=True):
    """A frame that a rule with ``log`` met. ``frame``: its number on its worker; ``head``: its
    first bytes; ``out_port`` "" at ingress."""

    time_ns: int
    generation: int
    frame: int
    ruleset: str
    rule: str
    action: str
    in_port: str
    out_port: str
    frame_len: int
    head: bytes


class RuleLog(msgspec.Struct, frozen=True, tag_field="t", tag="rule_log"):
    """Comes by itself. ``lost``: records beyond the rate or the room since the last one."""

    rows: tuple[RuleLogRow, ...]
    lost: int


class Event(msgspec.Struct, frozen=True, tag_field="t", tag="event"):
    """Something happened to ``object`` ("port/p1"): ask for its status."""

    seq: int
    kind: str
    object: str
    message: str


ToForwarder = (
    Hello
    | Apply
    | Begin
    | Chunk
    | Commit
    | GetStats
    | GetStatus
    | GetFdb
    | FlushFdb
    | GetRuleCounters
    | Trace
    | Analyse
    | GetConnections
    | FlushConnections
    | GetClients
    | EvictClient
    | Ping
)
FromForwarder = (
    Welcome
    | Ack
    | Refused
    | Stats
    | Status
    | Fdb
    | Flushed
    | RuleCounters
    | Traced
    | Analysed
    | Connections
    | ClientRows
    | Evicted
    | RuleLog
    | Pong
    | Event
)
Message = ToForwarder | FromForwarder

_encoder = msgspec.msgpack.Encoder()


def encode(message: Message) -> bytes:
    """One message with its length in front; ProtocolError when it is too large."""
    body = _encoder.encode(message)
    if len(body) > MESSAGE_BYTES_MAX:
        raise ProtocolError(
            f"message of {len(body)} bytes, at most {MESSAGE_BYTES_MAX} are allowed"
        )
    return len(body).to_bytes(4, "big") + body


class Decoder:
    """Bytes in, messages out. ``kind`` is ToForwarder or FromForwarder: what the peer may send."""

    def __init__(self, kind: object) -> None:
        self._buffer = bytearray()
        self._decoder: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(kind)

    def feed(self, data: bytes) -> Iterator[Message]:
        """Yield every message that is complete now; ProtocolError ends the connection."""
        self._buffer += data
        while len(self._buffer) >= 4:
            size = int.from_bytes(self._buffer[:4], "big")
            if size > MESSAGE_BYTES_MAX:
                raise ProtocolError(f"a message claims {size} bytes")
            if len(self._buffer) < 4 + size:
                return
            body = bytes(self._buffer[4 : 4 + size])
            del self._buffer[: 4 + size]
            try:
                yield self._decoder.decode(body)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                raise ProtocolError(str(error)) from error


def object_hash(obj: WireObject) -> bytes:
    """Hash of one object: its canonical MessagePack, keys of maps sorted."""
    body = msgspec.msgpack.encode(obj, order="sorted")
    return hashlib.blake2b(body, digest_size=HASH_BYTES).digest()


def combine(hashes: Iterable[bytes], base: bytes = bytes(HASH_BYTES)) -> bytes:
    """Hash of a set of objects, independent of order: the sum of their hashes mod 2**128."""
    total = int.from_bytes(base, "big")
    for item in hashes:
        total += int.from_bytes(item, "big")
    return (total % (1 << (8 * HASH_BYTES))).to_bytes(HASH_BYTES, "big")


def remove(base: bytes, hashes: Iterable[bytes]) -> bytes:
    """The inverse of :func:`combine`: the hash of the set without these objects."""
    total = int.from_bytes(base, "big")
    for item in hashes:
        total -= int.from_bytes(item, "big")
    return (total % (1 << (8 * HASH_BYTES))).to_bytes(HASH_BYTES, "big")


def chunks(
    objects: Iterable[WireObject], size: int = 256, size_bytes: int = MESSAGE_BYTES_MAX - 64
) -> Iterator[Chunk]:
    """Cut a snapshot into messages of at most ``size`` objects and ``size_bytes`` of these.

    A port that lists its VLANs one by one takes 14 KB, so the count alone bounds nothing. An
    object larger than ``size_bytes`` has a chunk of its own, which :func:`encode` refuses.
    """
    part: list[WireObject] = []
    part_bytes = 0
    for obj in objects:
        obj_bytes = len(_encoder.encode(obj))
        if part and (len(part) == size or part_bytes + obj_bytes > size_bytes):
            yield Chunk(tuple(part))
            part, part_bytes = [], 0
        part.append(obj)
        part_bytes += obj_bytes
    if part:
        yield Chunk(tuple(part))
