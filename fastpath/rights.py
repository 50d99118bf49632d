"""What this process may do, as the kernel sees it."""

from __future__ import annotations

CAP_SETUID = 7
CAP_NET_ADMIN = 12
CAP_NET_RAW = 13
CAP_SYS_NICE = 23


def may(capability: int) -> bool:
    """Is the capability effective?"""
    with open("/proc/self/status") as status:
        effective = next(int(line.split()[1], 16) for line in status if line.startswith("CapEff"))
    return bool(effective >> capability & 1)
