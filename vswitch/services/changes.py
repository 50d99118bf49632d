"""Every change of the configuration: put, patch, delete.

One lock makes changes follow each other. Within it: preconditions, the new immutable
configuration, validation of what is touched, commit, and only then the new value becomes the
present one and the reconcile loop hears of it. A commit that fails leaves everything as it was.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from vswitch import validate
from vswitch.kinds import KINDS, Configuration, Key, Stored, switches
from vswitch.kinds.action import ACTIONS
from vswitch.kinds.backends import TYPES
from vswitch.problems import DETAILS_MAX, Detail, Problem, not_found
from vswitch.services import removal
from vswitch.services.filterrules import ImportRequest
from vswitch.services.successors import Change, of_import, of_rule, of_ruleset, successor
from vswitch.settings import Limits
from vswitch.store import Actor, Store, StoreError
from vswitch.values import merge_patch


@dataclass(frozen=True, slots=True)
class Preconditions:
    """``match``: generations the client accepts; empty set: any, but the object must exist."""

    match: frozenset[int] | None = None
    create_only: bool = False

    def check(self, key: Key, old: Stored[Any] | None, *, required: bool) -> None:
        if self.create_only and old is not None:
            raise Problem("PRECONDITION_FAILED", f"{key.path} exists already.")
        if self.match is not None and (
            old is None or (self.match and old.generation not in self.match)
        ):
            state = "does not exist" if old is None else f"has generation {old.generation}"
            raise Problem("PRECONDITION_FAILED", f"{key.path} {state}.")
        if required and old is not None and self.match is None and not self.create_only:
            raise Problem(
                "PRECONDITION_REQUIRED",
                f"{key.path} exists: say in If-Match which generation you mean to change.",
            )


@dataclass(frozen=True, slots=True)
class Written:
    """``stored`` None: deleted. ``revision``: what to wait for."""

    key: Key
    stored: Stored[Any] | None
    revision: int
    created: bool = False


Observer = Callable[[Configuration, frozenset[Key]], None]


class Changes:
    """The desired configuration and the only way to change it. Any thread."""

    def __init__(
        self,
        store: Store,
        limits: Limits,
        *,
        require_match: bool = False,
        revisions_max: int = 10_000,
    ) -> None:
        self._store = store
        self._limits = limits
        self._require_match = require_match
        self._revisions_max = revisions_max
        self._lock = threading.Lock()
        self._observer: Observer = lambda configuration, touched: None
        self._kernel_vale: Callable[[], bool] = lambda: False
        self._current = store.load()

    @property
    def current(self) -> Configuration:
        return self._current

    def observe(self, observer: Observer) -> None:
        """`observer` hears of every commit, in order; it must not block."""
        self._observer = observer

    def ask_kernel_vale(self, question: Callable[[], bool]) -> None:
        """`question` says whether a VALE switch that is made now is the kernel's."""
        self._kernel_vale = question

    def get(self, key: Key) -> Stored[Any]:
        stored = self._current.get(key)
        if stored is None:
            raise not_found(KINDS[key.kind].title, key.name)
        return stored

    def put(self, key: Key, write: Any, conditions: Preconditions, actor: Actor) -> Written:
        """Create or replace. The same again changes nothing, not even the generation."""
        with self._lock:
            old = self._current.get(key)
            conditions.check(key, old, required=self._require_match)
            return self._replace(key, write, actor, "put")

    def patch(
        self, key: Key, patch: Mapping[str, Any], conditions: Preconditions, actor: Actor
    ) -> Written:
        """JSON Merge Patch on spec, labels and description."""
        with self._lock:
            old = self._current.get(key)
            if old is None:
                raise not_found(KINDS[key.kind].title, key.name)
            conditions.check(key, old, required=self._require_match)
            document = {
                "spec": old.spec.document(),
                "labels": dict(old.labels),
                "description": old.description,
            }
            try:
                write = KINDS[key.kind].write.model_validate(merge_patch(document, patch))
            except ValidationError as error:
                raise invalid(error) from error
            return self._replace(key, write, actor, "patch")

    def import_rules(self, name: str, request: ImportRequest, actor: Actor) -> Written:
        """Replace the sets of a `filterrule` table, all in one commit."""
        with self._lock:
            before = self._current
            try:
                change = of_import(before, name, request)
            except ValueError as error:
                detail = Detail("{name}", "INVALID", str(error))
                raise Problem("INVALID", str(error), (detail,)) from error
            key = Key("ruleset", name)
            if not change.objects:
                return Written(key, None, before.revision)
            return self._commit(key, change.objects, None, actor, "import", change.pointers)

    def delete(
        self, key: Key, conditions: Preconditions, actor: Actor, *, cascade: bool
    ) -> Written:
        with self._lock:
            before = self._current
            old = before.get(key)
            if old is None:
                raise not_found(KINDS[key.kind].title, key.name)
            conditions.check(key, old, required=self._require_match)
            gone = removal.gone_with(before, key, cascade=cascade)
            kept = removal.kept_without(before, gone, cascade=cascade)
            return self._commit(key, {**dict.fromkeys(gone), **kept}, None, actor, "delete")

    def _replace(self, key: Key, write: Any, actor: Actor, action: str) -> Written:
        before = self._current
        old = before.get(key)
        if key.kind == "bridge":
            write = _with_origin(old, write)
        if key.kind == "ruleset":
            untold = action == "patch" and "rules" not in write.spec.model_fields_set
            change = of_ruleset(before, key, write, keep_rules=untold)
        elif key.kind == "rule":
            change = of_rule(before, key, write)
        else:
            new = successor(before, key, write.spec, write.labels, write.description)
            change = Change({} if new is old else {key: new})
        if not change.objects:
            assert old is not None
            return Written(key, old, old.revision)
        stored = change.objects[key]
        return self._commit(key, change.objects, stored, actor, action, change.pointers)

    def _commit(
        self,
        key: Key,
        changes: Mapping[Key, Stored[Any] | None],
        stored: Stored[Any] | None,
        actor: Actor,
        action: str,
        pointers: Mapping[Key, str] | None = None,
    ) -> Written:
        before = self._current
        revision = before.revision + 1
        after = before.with_changes(revision, changes)
        followers = switches.follow(before, after, changes, kernel=self._kernel_vale())
        if followers:
            changes = {**changes, **followers}
            after = before.with_changes(revision, changes)
        validate.check(before, after, changes, self._limits, pointers)
        try:
            self._store.commit(revision, changes, before, actor, action, self._revisions_max)
        except StoreError as error:
            raise Problem(
                "STORE_UNAVAILABLE",
                f"The change was not made: {error}.",
                hint="Is the disk full, or the data directory read-only?",
            ) from error
        self._current = after
        self._observer(after, frozenset(changes))
        created = stored is not None and stored.generation == 1
        return Written(key, stored, revision, created)


def _with_origin(old: Stored[Any] | None, write: Any) -> Any:
    """A client may leave out who made the bridge, or repeat it."""
    origin = "user" if old is None else old.spec.origin
    if "origin" in write.spec.model_fields_set and write.spec.origin != origin:
        text = f"Who made a bridge cannot be changed: {origin}."
        raise Problem("INVALID", text, (Detail("/spec/origin", "INVALID", text),))
    spec = write.spec.model_copy(update={"origin": origin})
    return write.model_copy(update={"spec": spec})


def invalid(error: ValidationError, prefix: tuple[str | int, ...] = ()) -> Problem:
    """422 with a pointer for each fault."""
    faults = error.errors(include_url=False, include_context=False, include_input=False)
    details = tuple(
        Detail(pointer((*prefix, *fault["loc"])), "INVALID", sentence(fault["msg"]))
        for fault in faults[:DETAILS_MAX]
    )
    return Problem("INVALID", summary(details), details)


def sentence(message: str) -> str:
    """A validator's own words, without what pydantic puts before them."""
    return message.removeprefix("Value error, ")


def summary(details: tuple[Detail, ...]) -> str:
    first = details[0]
    where = f"{first.pointer}: " if first.pointer else ""
    more = f" (and {len(details) - 1} more)" if len(details) > 1 else ""
    return f"{where}{first.message}{more}"


def pointer(path: tuple[str | int, ...]) -> str:
    """RFC 6901. A tagged union puts its tag into the path; it is no member and is left out."""
    parts: list[str] = []
    for item in path:
        text = str(item)
        if parts and text in _TAGS.get(parts[-1], ()):
            continue
        parts.append(text.replace("~", "~0").replace("/", "~1"))
    return "".join(f"/{part}" for part in parts).encode("utf-8", "replace").decode()


_TAGS = {"backend": frozenset(TYPES), "action": frozenset(ACTIONS)}
