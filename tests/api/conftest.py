"""A control plane in this process with a fake forwarder, and clients that speak to it.

The HTTP server is the real one, on a loopback port and on a Unix socket, in a thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.fake_forwarder import FakeForwarder
from tests.support.topology import wait_until
from vswitch.app import create_app
from vswitch.control import Listener, Plane, Server, bind, http_config
from vswitch.services import Services
from vswitch.settings import Settings

API = "/api/v1"


class App:
    """The one application of all tests, with the services of one control plane."""

    _shared = create_app()

    def __init__(self, services: Services) -> None:
        self._services = services

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self._shared.state.services = self._services
        await self._shared(scope, receive, send)


class Api:
    """Plane, fake forwarder and an authenticated client."""

    def __init__(self, home: Path, **settings: Any) -> None:
        self.home = home
        for name in ("data", "run"):
            (home / name).mkdir(exist_ok=True)
        self.settings = Settings(
            data_dir=home / "data", run_dir=home / "run", **{"wait_applied_ms": 5000} | settings
        )
        self.forwarder = FakeForwarder(self.settings.forwarder_socket)
        self.plane: Plane
        self.http: httpx.Client
        self.port_number = 0
        self._stack = contextlib.ExitStack()

    def start(self) -> None:
        self.plane = self._stack.enter_context(Plane(self.settings))
        tcp = self._stack.enter_context(bind(Listener("127.0.0.1", 0), -1, -1))
        unix = self._stack.enter_context(bind(Listener(path=self.settings.api_socket), -1, -1))
        self.port_number = tcp.getsockname()[1]
        self._serve([tcp, unix])
        self.http = self.client()

    def _serve(self, sockets: list[socket.socket]) -> None:
        app = App(self.plane.services)
        server = Server(http_config(app, self.settings, tls=False))
        thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=sockets)))
        thread.start()

        def end() -> None:
            server.should_exit = True
            thread.join(timeout=10)
            assert not thread.is_alive()

        self._stack.callback(end)
        wait_until(lambda: server.started, 10, "the server listens")

    @property
    def token(self) -> str:
        return self.settings.token_file.read_text().strip()

    def client(self, *, token: str | None = "", unix: bool = False) -> httpx.Client:
        """A client, with the administrator's token unless another or none is asked for."""
        value = self.token if token == "" else token
        client = httpx.Client(
            base_url="http://vswitch" if unix else f"http://localhost:{self.port_number}",
            headers={"Authorization": f"Bearer {value}"} if value else {},
            transport=httpx.HTTPTransport(uds=str(self.settings.api_socket)) if unix else None,
            timeout=20,
        )
        return self._stack.enter_context(client)

    def stop(self) -> None:
        self._stack.close()
        self._stack = contextlib.ExitStack()

    def restart(self) -> None:
        self.stop()
        self.start()

    def wait_ready(self) -> None:
        wait_until(
            lambda: self.http.get(f"{API}/system/ready").status_code == 200, 10, "it is ready"
        )

    def __call__(
        self, method: str, path: str, body: Any = None, expect: int | None = None, **options: Any
    ) -> Any:
        """One request; its JSON. `expect`: the status it must have."""
        headers = options.pop("headers", None)
        answer = self.http.request(
            method, f"{API}{path}", json=body, headers=headers, params=options
        )
        if expect is not None:
            assert answer.status_code == expect, answer.text
        else:
            assert answer.status_code < 300, answer.text
        return answer.json() if answer.content else None

    def bridge(self, name: str = "br0", **spec: Any) -> Any:
        return self("PUT", f"/bridges/{name}", {"spec": spec})

    def port(self, name: str, bridge: str | None = "br0", **spec: Any) -> Any:
        spec.setdefault("backend", {"type": "memory"})
        return self("PUT", f"/ports/{name}", {"spec": {"bridge": bridge, **spec}})


@pytest.fixture
def make_api(tmp_path: Path) -> Iterator[Callable[..., Api]]:
    """Makes control planes; ends all of them."""
    made: list[Api] = []

    def make(**settings: Any) -> Api:
        home = tmp_path / f"home{len(made)}"
        home.mkdir()
        api = Api(home, **settings)
        made.append(api)
        api.start()
        return api

    yield make
    for api in made:
        api.stop()
        api.forwarder.close()


@pytest.fixture
def api(make_api: Callable[..., Api]) -> Api:
    """One control plane, ready."""
    made = make_api()
    made.wait_ready()
    return made
