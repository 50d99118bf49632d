"""What the control plane does, apart from HTTP. Functions raise problems.Problem."""

from __future__ import annotations

from dataclasses import dataclass

from vswitch.auth import Authority
from vswitch.services.changes import Changes
from vswitch.services.runtime import Runtime
from vswitch.settings import Settings
from vswitch.store import Store


@dataclass(frozen=True, slots=True)
class Services:
    """What a request can reach."""

    settings: Settings
    store: Store
    changes: Changes
    runtime: Runtime
    authority: Authority
