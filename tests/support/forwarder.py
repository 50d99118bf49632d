"""The forwarder's control socket over a real engine, in this process: no root, no keeper process.

with Forwarder(path, state_fd) as forwarder, Client(forwarder.path) as client:
    client.apply([bridge("br0"), port("p1", "memory", "br0")])
"""

from __future__ import annotations

import os
import queue
import selectors
import socket
import threading
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from fastpath import channel, native
from fastpath.apply import Applier
from fastpath.clients import Clients
from fastpath.keeper import DEFAULT_LIMITS
from fastpath.native import Engine, NativeError
from fastpath.regions import StateStore
from fastpath.server import Facts, Identity, Server

LIMITS = DEFAULT_LIMITS | {"ports_max": 8, "bridges_max": 4, "workers_max": 16, "clients_max": 4}


class Forwarder:
    """Engine, applier and server on a thread; ``asked`` are the requests to the keeper."""

    def __init__(
        self,
        path: Path,
        state_fd: int,
        limits: Mapping[str, int] = LIMITS,
        owners: Collection[int] | None = None,
    ) -> None:
        self.path = path
        self.netmap_path = path.with_name(f"{path.name}.netmap")
        self.now = time.time()  # what rules that expire are told
        self.answer = True
        self.keeper = True
        self.asked: queue.Queue[channel.Acquire] = queue.Queue()
        self.said: list[channel.Message] = []
        self._todo: queue.Queue[object] = queue.Queue()
        self._selector = selectors.DefaultSelector()
        self._wake_read, self._wake = socket.socketpair()
        self._selector.register(self._wake_read, selectors.EVENT_READ, self._work)
        self.engine = Engine(
            ports_max=limits["ports_max"],
            bridges_max=limits["bridges_max"],
            workers_max=limits["workers_max"],
            sets_max=limits["sets_max"],
            rules_max=limits["rules_max"],
            policers_max=limits["policers_max"],
        )
        store = StateStore(state_fd)
        self.facts = Facts({"memory": ""}, dict(limits))
        self.applier = Applier(
            self.engine,
            store,
            store.load(),
            limits,
            self._to_keeper,
            self._notify,
            wall=lambda: self.now,
        )
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(os.fspath(path))
        listener.listen()
        self._listener = listener
        identity = Identity("test", "epoch", os.getpid(), 0, frozenset({os.getuid()}), -1)
        self._netmap = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._netmap.bind(os.fspath(self.netmap_path))
        self._netmap.listen(64)
        self.clients = Clients(
            self._selector,
            self._netmap,
            self.applier,
            self._to_keeper,
            limits,
            identity.uids if owners is None else owners,
        )
        self.server = Server(
            self._selector, listener, self.applier, identity, self.facts, self.clients
        )
        self.applier.adopt({}, {})
        self._stop = False
        self._thread = threading.Thread(target=self._loop)
        self._thread.start()

    def _notify(self, kind: str, object: str, message: str) -> None:
        if hasattr(self, "server"):
            self.server.event(kind, object, message)

    def _to_keeper(self, message: channel.Message, fds: Sequence[int]) -> bool:
        if not self.keeper:
            return False
        self.said.append(message)
        if isinstance(message, channel.Acquire):
            if self.answer:
                self._todo.put(message)
                self._wake.send(b"x")
            else:
                self.asked.put(message)
        return True

    def grant(self, request: channel.Acquire) -> None:
        """The keeper's late answer."""
        self._todo.put(request)
        self._wake.send(b"x")

    def call(self, function: object) -> None:
        """Run on the server's thread."""
        self._todo.put(function)
        self._wake.send(b"x")

    def _work(self, mask: int) -> None:
        self._wake_read.recv(1)
        item = self._todo.get()
        if isinstance(item, channel.Acquire):
            self._acquired(item)
        else:
            item()  # type: ignore[operator]
        self.clients.settle()
        self.server.pump()

    def _acquired(self, request: channel.Acquire) -> None:
        try:
            fds, state = native.port_acquire(request.type, request.name, request.options)
        except NativeError as error:
            answer = channel.Acquired(request.id, request.name, error.name, error.message, None)
            self.applier.acquired(answer, [])
            self.applier.reconcile(retry=False)
            return
        bundle = channel.Bundle(
            request.name, request.type, request.options, request.type, request.options, state
        )
        self.applier.acquired(channel.Acquired(request.id, request.name, "", "", bundle), fds)
        self.applier.reconcile(retry=False)

    def _loop(self) -> None:
        while not self._stop:
            for key, mask in self._selector.select(0 if self.applier.busy else 0.05):
                key.data(mask)
            if self.applier.busy:
                self.applier.work()
                self.clients.settle()
                self.server.pump()
            self.clients.wake()
            self.server.push_log()

    def close(self) -> None:
        self.call(lambda: setattr(self, "_stop", True))
        self._thread.join(10)
        assert not self._thread.is_alive()
        self.clients.close()
        self._netmap.close()
        self.server.close()
        self._listener.close()
        self._wake.close()
        self._wake_read.close()
        self._selector.close()
        self.engine.destroy()
        for held in self.applier.held.values():
            channel.close_all(held.fds)
        channel.close_all(list(self.applier.tables.fds.values()))

    def __enter__(self) -> Forwarder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
