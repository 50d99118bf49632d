"""Verbs that every noun has, made from what differs: list, show, delete; and writing one object."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import typer

from vswitch.cli import edit, render
from vswitch.cli.client import Client, Json, TokenFileOption, UrlOption, client_for

Name = Annotated[str, typer.Argument(help="the object's name")]
Cascade = Annotated[bool, typer.Option(help="delete what refers to it, too")]


def add_list(
    app: typer.Typer,
    noun: str,
    help: str,
    columns: tuple[str, ...],
    row: Callable[[dict[str, Any]], tuple[object, ...]],
    right: str = "",
) -> None:
    """``list``: a row an object; ``right`` names the columns of numbers."""

    @app.command("list", help=help)
    def list_objects(
        label: edit.LabelOption = None,
        output: render.OutputOption = render.Output.TABLE,
        url: UrlOption = None,
        token_file: TokenFileOption = None,
    ) -> None:
        found = client_for(url, token_file).items(f"/{noun}s", label=label or [])
        render.emit(
            found, output, render.table(columns, [row(item) for item in found], right=right)
        )


def add_show(app: typer.Typer, noun: str, help: str) -> None:
    @app.command("show", help=help)
    def show(
        name: Name,
        output: render.OutputOption = render.Output.YAML,
        url: UrlOption = None,
        token_file: TokenFileOption = None,
    ) -> None:
        render.emit(client_for(url, token_file).get(f"/{noun}s/{name}"), output)


def add_delete(app: typer.Typer, noun: str, help: str) -> None:
    @app.command("delete", help=help)
    def delete(
        name: Name,
        cascade: Cascade = False,
        url: UrlOption = None,
        token_file: TokenFileOption = None,
    ) -> None:
        remove(client_for(url, token_file), f"/{noun}s/{name}", cascade)


def remove(client: Client, path: str, cascade: bool) -> None:
    client.request("DELETE", path, params={"cascade": "true"} if cascade else {})


def create(client: Client, noun: str, name: str, body: Json, output: render.Output) -> None:
    """Refused when there is one of that name."""
    _write(client, "PUT", noun, name, body, output, {"If-None-Match": "*"})


def put(client: Client, noun: str, name: str, body: Json, output: render.Output) -> None:
    _write(client, "PUT", noun, name, body, output)


def patch(client: Client, noun: str, name: str, body: Json, output: render.Output) -> None:
    _write(client, "PATCH", noun, name, body, output)


def _write(
    client: Client,
    method: str,
    noun: str,
    name: str,
    body: Json,
    output: render.Output,
    headers: dict[str, str] | None = None,
) -> None:
    written = client.request(method, f"/{noun}s/{name}", body=body, headers=headers or {})
    render.warn_not_ready(noun, written)
    render.emit(written, output)
