"""One connection to the forwarder: requests with answers, from any thread.

A reader thread takes messages apart and hands each answer to whoever waits for its id, so a long
Apply does not hold up statistics. Every wait has a deadline. A connection that breaks answers all
who wait with :class:`ClientError` and is not used again; the loop makes a new one.
"""

from __future__ import annotations

import contextlib
import itertools
import queue
import socket
import struct
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from fastpath import protocol
from fastpath.protocol import Decoder, Event, FromForwarder, Hello, Refused, RuleLog, Welcome

CONNECT_S = 2.0
T = TypeVar("T")


class ClientError(Exception):
    """There is no answer: not connected, connection lost, or too slow."""


class RefusedError(ClientError):
    """The forwarder answered that it will not."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


class Client:
    """``on_event`` and ``on_broken`` are called on the reader's or a sender's thread."""

    def __init__(
        self,
        path: Path,
        build: str,
        on_event: Callable[[Event | RuleLog], None],
        on_broken: Callable[[], None],
    ) -> None:
        self._on_event = on_event
        self._on_broken = on_broken
        self._ids = itertools.count(1)
        self._send_lock = threading.Lock()
        self._lock = threading.Lock()
        self._waiting: dict[int, queue.SimpleQueue[object]] = {}
        self._broken: str | None = None
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(CONNECT_S)
        self._decoder = Decoder(FromForwarder)
        try:
            self._socket.connect(str(path))
            self._socket.sendall(protocol.encode(Hello(protocol.VERSION, build)))
            self.welcome = self._read_welcome()
        except OSError as error:
            self._socket.close()
            raise ClientError(f"{path}: {error.strerror or error}") from error
        except BaseException:
            self._socket.close()
            raise
        self._socket.settimeout(None)
        # A stopped forwarder must not hold up who sends.
        self._socket.setsockopt(
            socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", int(CONNECT_S), 0)
        )
        self._reader = threading.Thread(target=self._read, name="forwarder-reader", daemon=True)
        self._reader.start()

    def _read_welcome(self) -> Welcome:
        while True:
            data = self._socket.recv(65536)
            if not data:
                raise ClientError("the forwarder closed the connection before its welcome")
            try:
                messages = list(self._decoder.feed(data))
            except protocol.ProtocolError as error:
                raise ClientError(f"the forwarder sent nonsense: {error}") from error
            for index, message in enumerate(messages):
                if isinstance(message, Refused):
                    raise RefusedError(message.code, message.message)
                if not isinstance(message, Welcome):
                    raise ClientError("the forwarder did not begin with its welcome")
                if message.proto != protocol.VERSION:
                    raise ClientError(
                        f"the forwarder speaks protocol {message.proto}, "
                        f"this control plane {protocol.VERSION}: install the same version of both"
                    )
                self._early = messages[index + 1 :]
                return message

    @property
    def alive(self) -> bool:
        return self._broken is None

    def close(self) -> None:
        self._break("the connection was closed")

    def send(self, message: protocol.Message) -> None:
        """For messages without an answer."""
        data = protocol.encode(message)
        try:
            with self._send_lock:
                self._socket.sendall(data)
        except OSError as error:
            self._break(str(error))
            raise ClientError(f"the forwarder is gone: {error}") from error

    def request(
        self, make: Callable[[int], protocol.Message], answer: type[T], timeout_s: float
    ) -> T:
        """Send what `make` makes of a fresh id and wait for the answer."""
        number = next(self._ids)
        box: queue.SimpleQueue[object] = queue.SimpleQueue()
        with self._lock:
            if self._broken is not None:
                raise ClientError(self._broken)
            self._waiting[number] = box
        try:
            self.send(make(number))
            got = box.get(timeout=timeout_s)
        except queue.Empty:
            raise ClientError(f"the forwarder did not answer within {timeout_s:g} s") from None
        finally:
            with self._lock:
                self._waiting.pop(number, None)
        if isinstance(got, ClientError):
            raise ClientError(str(got))
        if isinstance(got, Refused):
            raise RefusedError(got.code, got.message)
        if not isinstance(got, answer):
            self._break(f"the forwarder answered with a {type(got).__name__}")
            raise ClientError(f"the forwarder answered with a {type(got).__name__}")
        return got

    def _read(self) -> None:
        try:
            for message in self._early:
                self._dispatch(message)
            while data := self._socket.recv(262144):
                for message in self._decoder.feed(data):
                    self._dispatch(message)
            self._break("the forwarder closed the connection")
        except (OSError, protocol.ProtocolError) as error:
            self._break(f"the connection to the forwarder broke: {error}")

    def _dispatch(self, message: Any) -> None:
        if isinstance(message, Event | RuleLog):
            self._on_event(message)
            return
        with self._lock:
            box = self._waiting.get(message.id)
        if box is not None:
            box.put(message)

    def _break(self, why: str) -> None:
        with self._lock:
            if self._broken is None:
                self._broken = why
            waiting = list(self._waiting.values())
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        for box in waiting:
            box.put(ClientError(why))
        self._on_broken()
