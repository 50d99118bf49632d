"""Where an appliance keeps its things, as its processes and its command line agree on it.

``<data>``  vswitch.db, admin.token, pcap/           /var/lib/vswitch, or $XDG_DATA_HOME/vswitch
``<run>``   api.sock, *.pid, the forwarder's sockets  /run/vswitch, or $XDG_RUNTIME_DIR/vswitch
"""

from __future__ import annotations

import os
from pathlib import Path

API_SOCKET = "api.sock"
TOKEN_FILE = "admin.token"


def default_data_dir() -> Path:
    """VSWITCH_DATA_DIR, else the system's place for root, else the user's."""
    if chosen := os.environ.get("VSWITCH_DATA_DIR"):
        return Path(chosen)
    if os.geteuid() == 0:
        return Path("/var/lib/vswitch")
    home = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share"
    return Path(home) / "vswitch"


def default_run_dir() -> Path:
    """VSWITCH_RUN_DIR, else the system's place for root, else the user's."""
    if chosen := os.environ.get("VSWITCH_RUN_DIR"):
        return Path(chosen)
    if os.geteuid() == 0:
        return Path("/run/vswitch")
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    return Path(runtime) / "vswitch" if runtime else Path(f"/tmp/vswitch-{os.geteuid()}")
