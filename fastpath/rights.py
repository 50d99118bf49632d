"""What this process may do, as the kernel sees it."""

from __future__ import annotations

CAP_CHOWN = 0
CAP_DAC_OVERRIDE = 1
CAP_KILL = 5
CAP_SETGID = 6
CAP_SETUID = 7
CAP_SETPCAP = 8
CAP_NET_ADMIN = 12
CAP_NET_RAW = 13
CAP_SYS_NICE = 23

# What a keeper that was started as root goes on with: its job (NET_*), giving the forwarder its
# user (SET*), ending it (KILL), loading it in the background (SYS_NICE), its own files in
# directories of the control plane (CHOWN, DAC_OVERRIDE).
KEEPER = (
    CAP_CHOWN,
    CAP_DAC_OVERRIDE,
    CAP_KILL,
    CAP_SETGID,
    CAP_SETUID,
    CAP_SETPCAP,
    CAP_NET_ADMIN,
    CAP_NET_RAW,
    CAP_SYS_NICE,
)


def may(capability: int) -> bool:
    """Is the capability effective?"""
    with open("/proc/self/status") as status:
        effective = next(int(line.split()[1], 16) for line in status if line.startswith("CapEff"))
    return bool(effective >> capability & 1)
