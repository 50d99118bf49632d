"""What became of each object: nothing to say when it is in force, else a code and a sentence."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice

from fastpath.native import NativeError
from fastpath.protocol import Outcome

Notify = Callable[[str, str, str], None]

HINTS = {
    "IFACE_NOT_FOUND": "the port comes up by itself when the interface appears",
    "IFACE_LOST": "the port comes up by itself when the interface appears",
    "IFACE_DENIED": "vswitch serve --allow PATTERN; it is given again for each further pattern",
    "ADDRESS_NOT_LOCAL": "ip address add ADDRESS dev INTERFACE; the port then comes up by itself",
    "PRIVILEGE": "start as root, or with the capabilities NET_ADMIN and NET_RAW",
    "KEEPER_ABSENT": "start the keeper; the port comes up by itself then",
    "MONITORED_ABSENT": "the monitor works by itself as soon as that port does",
    "NETMAP_ABSENT": "load the module netmap, or pass the device in",
    "NETNS_NOT_FOUND": "make it with: ip netns add NAME",
    "REFERENCE_NOT_FOUND": "the rule set in force is the one before; make what is named there",
    "RULE_LIMIT": "the rule set in force is the one before; take rules out, or make groups smaller",
}
LOST = Outcome("IFACE_LOST", "the interface is gone", HINTS["IFACE_LOST"])
ABSENT = Outcome("KEEPER_ABSENT", "no keeper is there to open it", HINTS["KEEPER_ABSENT"])


def refused(code: str, message: str, field: str = "") -> Outcome:
    """A refusal as the API shows it."""
    return Outcome(code, message, HINTS.get(code, ""), field)


def of_error(error: NativeError) -> Outcome:
    return refused(error.name, error.message)


class Outcomes:
    """By key; ``notify(kind, object, message)`` is called when one changes.

    Static entries and rules come in thousands: theirs are in the answer to the change and in the
    status, not in events.
    """

    def __init__(self, notify: Notify) -> None:
        self._notify = notify
        self._failed: dict[str, Outcome] = {}

    def get(self, key: str) -> Outcome:
        return self._failed.get(key, Outcome())

    def failed(self, prefix: str, most: int) -> dict[str, Outcome]:
        """At most so many of those whose key begins so."""
        found = ((key, item) for key, item in self._failed.items() if key.startswith(prefix))
        return dict(islice(found, most))

    def fail(self, key: str, outcome: Outcome) -> None:
        if self._failed.get(key) != outcome:
            self._failed[key] = outcome
            self._tell("failed", key, outcome.message)

    def succeed(self, key: str) -> None:
        if self._failed.pop(key, None) is not None:
            self._tell("in_force", key, "")

    def forget(self, keys: Iterable[str]) -> None:
        """Of objects that are gone."""
        for key in keys:
            self._failed.pop(key, None)

    def __iter__(self) -> Iterator[str]:
        """Keys of what failed."""
        return iter(self._failed)

    def _tell(self, kind: str, key: str, message: str) -> None:
        if not key.startswith(("static/", "rule/")):
            self._notify(kind, key, message)
