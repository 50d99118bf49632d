"""How the command line reaches the appliance, and how it says that it was refused.

The address is ``--url`` or VSWITCH_URL: ``http://HOST:PORT`` or ``unix:PATH``; without either it
is the Unix socket in the run directory, where root needs no token. Over TCP a bearer token comes
from VSWITCH_TOKEN or the file named by ``--token-file`` or VSWITCH_TOKEN_FILE.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer
from rich.console import Console

from vswitch import paths

API = "/api/v1"
TIMEOUT_S = 30.0

Json = dict[str, Any]
Query = str | list[str]

UrlOption = Annotated[
    str | None,
    typer.Option("--url", envvar="VSWITCH_URL", help="http://HOST:PORT or unix:PATH"),
]
TokenFileOption = Annotated[
    Path | None,
    typer.Option("--token-file", envvar="VSWITCH_TOKEN_FILE", help="file that holds a token"),
]


class CliError(Exception):
    """Ends a command: what is shown on stderr, and the exit code."""

    exit_code = 1

    def __init__(self, message: str, hint: str = "", exit_code: int = 1) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.exit_code = exit_code

    def show(self) -> None:
        console = Console(stderr=True, soft_wrap=True, highlight=False)
        console.print(f"[bold red]error:[/] {_plain(self.message)}")
        if self.hint:
            console.print(f"[bold]hint:[/]  {_plain(self.hint)}")


class Refused(CliError):
    """A problem document (RFC 9457) of the appliance."""

    EXIT_CODES: Mapping[int, int] = {401: 6, 403: 6, 404: 4, 409: 5, 412: 5, 428: 5, 503: 3}

    def __init__(self, response: httpx.Response) -> None:
        self.problem = _problem(response)
        status = response.status_code
        text = self.problem.get("detail") or self.problem.get("title") or response.reason_phrase
        code = self.problem.get("code")
        hint = self.problem.get("hint") or ""
        if status == 401:
            hint = "give a token: --token-file DATA_DIR/admin.token, or VSWITCH_TOKEN"
        super().__init__(
            f"{text} ({code or 'HTTP'}, {status})", hint, self.EXIT_CODES.get(status, 1)
        )

    def show(self) -> None:
        super().show()
        console = Console(stderr=True, soft_wrap=True, highlight=False)
        for item in self.problem.get("errors") or ():
            pointer = item.get("pointer") or "/"
            message = _plain(str(item.get("message") or item.get("code")))
            console.print(f"  [cyan]{_plain(pointer)}[/]: {message}")


def _plain(text: str) -> str:
    """Text of others is never read as markup."""
    return text.replace("[", "\\[")


def _problem(response: httpx.Response) -> Json:
    try:
        body = response.json()
    except ValueError:
        return {"detail": response.text[:200]}
    return body if isinstance(body, dict) else {"detail": str(body)[:200]}


class Client:
    """The API as calls: paths without the prefix in, decoded JSON out, Refused otherwise."""

    def __init__(self, http: httpx.Client, where: str) -> None:
        self._http = http
        self._where = where

    def close(self) -> None:
        self._http.close()

    def request(
        self,
        method: str,
        path: str,
        *,
        body: Json | None = None,
        params: Mapping[str, Query] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        try:
            response = self._http.request(
                method, API + path, json=body, params=params, headers=headers
            )
        except httpx.TransportError as error:
            raise CliError(
                f"no answer from {self._where}: {error}",
                "is it running? start it with: vswitch serve",
                exit_code=3,
            ) from error
        if response.is_error:
            raise Refused(response)
        if response.status_code == 204 or not response.content:
            return None
        return response.json()

    def get(self, path: str, **params: Query) -> Any:
        return self.request("GET", path, params=params)

    def items(self, path: str, **params: Query) -> list[Json]:
        """Every page of a list."""
        found: list[Json] = []
        while True:
            page = self.get(path, **params)
            found += page["items"]
            cursor = page.get("next_cursor")
            if not cursor:
                return found
            params = {**params, "cursor": cursor}


def _default_url() -> str:
    return f"unix:{paths.default_run_dir() / paths.API_SOCKET}"


def _token(token_file: Path | None) -> str | None:
    if token := os.environ.get("VSWITCH_TOKEN"):
        return token
    if token_file is None:
        return None
    try:
        return token_file.read_text().strip()
    except OSError as error:
        raise CliError(f"cannot read the token: {error}", exit_code=6) from error


def connect(url: str | None, token_file: Path | None) -> Client:
    """A client of the appliance at ``url``; nothing is sent yet."""
    where = url or _default_url()
    token = _token(token_file)
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    transport: httpx.BaseTransport | None = None
    base = where
    if where.startswith("unix:"):
        transport = httpx.HTTPTransport(uds=where.removeprefix("unix:"))
        base = "http://localhost"
    elif not where.startswith(("http://", "https://")):
        raise CliError(f"{where!r} is neither http://HOST:PORT nor unix:PATH", exit_code=2)
    http = httpx.Client(
        base_url=base, headers=headers, timeout=TIMEOUT_S, transport=transport, trust_env=False
    )
    return Client(http, where)


# Replaced by tests; every command gets its client through it.
connector: Callable[[str | None, Path | None], Client] = connect
_opened: list[Client] = []


def client_for(url: str | None, token_file: Path | None) -> Client:
    """The command's client; :func:`close_all` ends it."""
    made = connector(url, token_file)
    _opened.append(made)
    return made


def close_all() -> None:
    """After the command, however it ended."""
    while _opened:
        _opened.pop().close()
