"""What this process may do, as the kernel sees it."""

from __future__ import annotations

import contextlib
import os

CAP_CHOWN = 0
CAP_DAC_OVERRIDE = 1
CAP_KILL = 5
CAP_SETGID = 6
CAP_SETUID = 7
CAP_SETPCAP = 8
CAP_NET_ADMIN = 12
CAP_NET_RAW = 13
CAP_IPC_LOCK = 14
CAP_SYS_NICE = 23
CAP_BPF = 39

# Of keeper and forwarder's control thread: they sleep until somebody died or asks.
NICE = -10
# Of a forwarder that is being loaded, as far as SYS_NICE lets it return.
NICE_LOADING = 5

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
# And, where af_xdp ports are allowed, their program and their memory.
KEEPER_XDP = (CAP_BPF, CAP_IPC_LOCK)


def may(capability: int) -> bool:
    """Is the capability effective?"""
    with open("/proc/self/status") as status:
        effective = next(int(line.split()[1], 16) for line in status if line.startswith("CapEff"))
    return bool(effective >> capability & 1)


def keep_precedence() -> None:
    """What this thread is given, its children and threads do not get."""
    if may(CAP_SYS_NICE):
        policy = os.SCHED_OTHER | os.SCHED_RESET_ON_FORK
        os.sched_setscheduler(0, policy, os.sched_param(0))


def give_precedence(thread: int, nice: int) -> None:
    """That thread (0: this one) goes before others; nothing where forbidden.

    For the threads that nothing waits for but a takeover: they sleep all the time otherwise.
    """
    with contextlib.suppress(PermissionError, ProcessLookupError):
        os.setpriority(os.PRIO_PROCESS, thread, nice)
