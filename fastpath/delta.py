"""What a change of the configuration is, wherever it came from. Pure.

A delta names its base by hash; a snapshot is compared with what is there. Either way what is left
is a :class:`Delta`, so that everything behind costs what changes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass

from fastpath.protocol import HASH_BYTES, Apply, WireObject, combine, object_hash, remove


@dataclass(frozen=True, slots=True)
class Delta:
    """``deletes`` come first. ``mentioned``: what the answer has to name."""

    revision: int
    hash: bytes
    upserts: tuple[WireObject, ...]
    deletes: tuple[str, ...]
    mentioned: Set[str]


class RefusalError(Exception):
    """Why a change is none; ``code`` goes to who sent it."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def of_apply(
    present: Mapping[str, WireObject], revision: int, hash: bytes, request: Apply, objects_max: int
) -> Delta:
    """``request`` on what is present, as of ``revision`` and ``hash``; RefusalError."""
    if request.base_hash != hash:
        raise RefusalError(
            "HASH_MISMATCH", f"revision {revision} is in force, not the delta's base"
        )
    seen: dict[str, WireObject | None] = {}
    gone: list[bytes] = []
    for key in request.deletes:
        old = seen.get(key) if key in seen else present.get(key)
        if old is None:
            raise RefusalError("HASH_INVALID", f"{key} cannot be deleted: it is not there")
        gone.append(object_hash(old))
        seen[key] = None
    for obj in request.upserts:
        key = obj.key
        old = seen[key] if key in seen else present.get(key)
        if old is not None:
            gone.append(object_hash(old))
        seen[key] = obj
    more = sum((obj is not None) - (key in present) for key, obj in seen.items())
    if more > 0 and len(present) + more > objects_max:
        raise RefusalError("LIMIT", f"{objects_max} objects are the limit")
    new = combine(map(object_hash, request.upserts), remove(request.base_hash, gone))
    if new != request.hash:
        raise RefusalError("HASH_INVALID", "the delta does not lead to the hash it names")
    keys = frozenset(obj.key for obj in request.upserts)
    return Delta(request.revision, request.hash, request.upserts, request.deletes, keys)


class Snapshot:
    """A whole configuration that comes in parts; hashed as they come."""

    def __init__(self, revision: int, hash: bytes) -> None:
        self._revision = revision
        self._hash = hash
        self._sum = bytes(HASH_BYTES)
        self.objects: dict[str, WireObject] = {}

    def add(self, objects: Iterable[WireObject]) -> None:
        gone: list[bytes] = []
        come: list[bytes] = []
        for obj in objects:
            key = obj.key
            if key in self.objects:
                gone.append(object_hash(self.objects[key]))
            self.objects[key] = obj
            come.append(object_hash(obj))
        self._sum = combine(come, remove(self._sum, gone))

    def delta(self, present: Mapping[str, WireObject]) -> Delta:
        """What makes this of what is present; RefusalError."""
        if self._sum != self._hash:
            raise RefusalError("HASH_INVALID", "the snapshot's objects do not give its hash")
        upserts = tuple(obj for key, obj in self.objects.items() if present.get(key) != obj)
        deletes = tuple(key for key in present if key not in self.objects)
        return Delta(self._revision, self._hash, upserts, deletes, self.objects.keys())
