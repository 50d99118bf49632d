"""Who may do what: bearer tokens, and the peer of a Unix socket.

Tokens are 256 random bits; the database holds their SHA-256. ``admin.token`` in the data
directory (mode 0600) holds the one of the administrator: it is made at the first start, and
whoever replaces or removes the file changes the token at the next start.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
from dataclasses import dataclass
from pathlib import Path

from vswitch.store import Actor, Store

_TOKEN = re.compile(r"[A-Za-z0-9_-]{40,200}")


@dataclass(frozen=True, slots=True)
class Peer:
    """Credentials of the process at the other end of a Unix socket (SO_PEERCRED)."""

    pid: int
    uid: int
    gid: int


@dataclass(frozen=True, slots=True)
class Principal:
    """``role``: viewer reads, operator and admin change."""

    name: str
    role: str

    def may(self, method: str) -> bool:
        return self.role in ("operator", "admin") or method in ("GET", "HEAD")


class Authority:
    """Decides who a request comes from. Tokens change only with a restart."""

    def __init__(self, tokens: list[tuple[str, str, str]], service_uid: int) -> None:
        self._tokens = [
            (digest.encode(), Principal(f"token:{name}", role)) for name, digest, role in tokens
        ]
        self._trusted_uids = frozenset({0, service_uid})

    def of_token(self, token: str) -> Principal | None:
        """Constant time: every token is compared, whatever matches."""
        digest = token_hash(token).encode()
        found = None
        for known, principal in self._tokens:
            if hmac.compare_digest(known, digest):
                found = principal
        return found

    def of_peer(self, peer: Peer) -> Principal | None:
        if peer.uid in self._trusted_uids:
            return Principal(f"uid:{peer.uid}", "admin")
        return None


def token_hash(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()


def ensure_admin_token(store: Store, path: Path) -> bool:
    """Make database and file agree on the administrator's token. True: the file is new."""
    token = _read(path)
    fresh = token is None
    if token is None:
        token = secrets.token_urlsafe(32)
        _write(path, token)
    digest = token_hash(token)
    if not any(name == "admin" and known == digest for name, known, _ in store.tokens()):
        store.put_token("admin", digest, "admin", Actor("start"))
    return fresh


def _read(path: Path) -> str | None:
    try:
        text = path.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        return None
    if not _TOKEN.fullmatch(text):
        raise ValueError(f"{path} holds no token (40 to 200 of A-Z a-z 0-9 _ -); remove it")
    return text


def _write(path: Path, token: str) -> None:
    """All or nothing, never readable by others, on the disk before anyone relies on it."""
    new = path.with_suffix(".new")
    new.unlink(missing_ok=True)
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with open(descriptor, "w", encoding="ascii") as file:
        file.write(token + "\n")
        file.flush()
        os.fsync(file.fileno())
    new.rename(path)
