"""What an operator decides about the control plane before it starts.

Every field can be given as an environment variable ``VSWITCH_<NAME>`` (lists as JSON) or by
whoever constructs :class:`Settings`; arguments win.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

from pydantic import Field, NonNegativeInt, PositiveInt
from pydantic_settings import BaseSettings, SettingsConfigDict

CONTROL_ID = 64502
"""uid and gid of the control plane when it is started by root."""

Seconds = Annotated[int, Field(ge=1, le=1 << 30)]


class Limits(BaseSettings):
    """Bounds of the configuration; the forwarder preallocates for the same ones."""

    model_config = SettingsConfigDict(env_prefix="VSWITCH_LIMIT_", frozen=True)

    ports: PositiveInt = 256
    bridges: PositiveInt = 64
    static_entries: PositiveInt = 8192
    """Static FDB entries of one bridge; its own ``fdb.max_entries`` may be lower."""
    rules: Annotated[int, Field(ge=1, le=131_072)] = 131_072
    """Rules of one set. The forwarder has room for 262,144 in all."""
    rulesets: Annotated[int, Field(ge=1, le=256)] = 256
    groups: Annotated[int, Field(ge=1, le=1024)] = 1024
    group_members: Annotated[int, Field(ge=1, le=16_384)] = 16_384
    """A group has to fit into one message to the forwarder."""
    policers: Annotated[int, Field(ge=1, le=256)] = 256
    attach: Annotated[int, Field(ge=1, le=16)] = 16
    """Sets that are asked at one stage: a port's own and its bridge's, each direction."""
    connections: Annotated[int, Field(ge=1, le=1 << 22)] = 65536
    """Connections that are tracked, of all bridges; 128 bytes and some for each."""
    connections_per_port: NonNegativeInt = 0
    """Of these, how many may begin on one port; 0: a quarter."""
    tcp_opening_s: Seconds = 60
    """Silence after which a TCP connection is forgotten: until its handshake is complete,"""
    tcp_established_s: Seconds = 7440
    """when it is (RFC 5382 asks for 2 hours and 4 minutes at least),"""
    tcp_closing_s: Seconds = 120
    """and behind a FIN or RST."""
    udp_new_s: Seconds = 30
    udp_established_s: Seconds = 180
    icmp_s: Seconds = 30
    tcp_loose: bool = False
    """A TCP segment from the middle of a connection begins one, too."""
    netmap_connections: PositiveInt = 1024
    """Opens of /dev/netmap by programs, of all users,"""
    netmap_connections_per_user: PositiveInt = 256
    """and of one."""
    netmap_ports_per_user: PositiveInt = 64
    """Ports, pipes and monitors of one user's programs,"""
    netmap_memory_per_user_mib: PositiveInt = 2048
    """and the memory that the switch has for them."""
    netmap_requests_per_s: PositiveInt = 1000
    """Of a connection; more are served later."""
    netmap_opens_per_s: PositiveInt = 100
    """Registrations of one user; more are refused."""

    @property
    def fastpath(self) -> dict[str, int]:
        """Those that only the fast path needs, by the names its keeper knows them by."""
        return {
            "connections_max": self.connections,
            "connections_port_max": self.connections_per_port,
            "tcp_opening_s": self.tcp_opening_s,
            "tcp_established_s": self.tcp_established_s,
            "tcp_closing_s": self.tcp_closing_s,
            "udp_new_s": self.udp_new_s,
            "udp_established_s": self.udp_established_s,
            "icmp_s": self.icmp_s,
            "tcp_loose": int(self.tcp_loose),
            "netmap_connections_max": self.netmap_connections,
            "netmap_connections_user_max": self.netmap_connections_per_user,
            "netmap_ports_user_max": self.netmap_ports_per_user,
            "netmap_memory_user_max": self.netmap_memory_per_user_mib << 20,
            "netmap_requests_s": self.netmap_requests_per_s,
            "netmap_opens_s": self.netmap_opens_per_s,
        }


class Settings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="VSWITCH_", frozen=True, extra="forbid")

    data_dir: Path = Path("/var/lib/vswitch")
    run_dir: Path = Path("/run/vswitch")
    listen: tuple[str, ...] = ()
    """``HOST:PORT`` or ``unix:PATH``; none given: 127.0.0.1:8080 and unix:<run_dir>/api.sock."""
    tls_cert: Path | None = None
    tls_key: Path | None = None
    allowed_hosts: tuple[str, ...] = ()
    """Host names clients may use besides loopback and the addresses that are listened on."""
    allowed_origins: tuple[str, ...] = ()
    """Origins ("https://ui.example") whose pages may call the API; none by default."""
    control_uid: int | None = None
    control_gid: int | None = None
    """Who to become; none given: CONTROL_ID when started by root, else nobody else."""
    wait_applied_ms: PositiveInt = 2000
    """How long a write waits for the forwarder before it answers 202."""
    request_timeout_s: Annotated[float, Field(gt=0)] = 10.0
    """Longest time a client may take to send a request body."""
    body_bytes_max: PositiveInt = 64 * 1024
    large_body_bytes_max: PositiveInt = 64 * 1024 * 1024
    """Of rule sets and groups."""
    require_if_match: bool = False
    """Refuse to change an existing object without If-Match (428)."""
    revisions_max: PositiveInt = 10_000
    """Older revisions and audit rows are dropped."""
    metrics_rules_max: Annotated[int, Field(ge=0, le=131_072)] = 1000
    """Rules that have counters of their own in /metrics; the sums of all sets are always there."""
    log_level: str = "info"
    limits: Limits = Field(default_factory=Limits)

    @property
    def forwarder_socket(self) -> Path:
        return self.run_dir / "forwarder.sock"

    @property
    def api_socket(self) -> Path:
        return self.run_dir / "api.sock"

    @property
    def database(self) -> Path:
        return self.data_dir / "vswitch.db"

    @property
    def token_file(self) -> Path:
        return self.data_dir / "admin.token"

    @property
    def listeners(self) -> tuple[str, ...]:
        return self.listen or ("127.0.0.1:8080", f"unix:{self.api_socket}")

    @property
    def service_ids(self) -> tuple[int, int]:
        """uid and gid the control plane runs with."""
        root = os.getuid() == 0
        uid, gid = self.control_uid, self.control_gid
        if uid is None:
            uid = CONTROL_ID if root else os.getuid()
        if gid is None:
            gid = CONTROL_ID if root else os.getgid()
        return uid, gid
