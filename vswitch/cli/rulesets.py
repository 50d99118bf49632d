"""``vswitch ruleset`` and ``vswitch rule``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
import yaml

from vswitch.cli import edit, render, verbs
from vswitch.cli.client import CliError, Json, TokenFileOption, UrlOption, client_for

app = typer.Typer(no_args_is_help=True)
rules = typer.Typer(no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="the rule set's name")]
Id = Annotated[str, typer.Argument(help="the rule's id")]
File = Annotated[Path, typer.Argument(help="YAML or JSON; - is standard input")]


def words(part: Json, prefix: str = "") -> str:
    """A match or an action in one line: ip.src=10.0.0.0/8 l4.dport=80,8000-8080."""
    found: list[str] = []
    for name, value in part.items():
        if isinstance(value, dict):
            found.append(words(value, f"{prefix}{name}."))
        elif isinstance(value, list):
            found.append(f"{prefix}{name}={','.join(map(str, value))}")
        else:
            text = str(value).lower() if isinstance(value, bool) else value
            found.append(f"{prefix}{name}={text}")
    return " ".join(found)


def _action(action: Json) -> str:
    rest = {name: value for name, value in action.items() if name != "type"}
    return f"{action['type']} {words(rest)}".strip()


def _place(attach: Json) -> str:
    where = attach.get("bridge") or attach.get("port")
    return f"{where}:{attach['direction']}"


# --- sets ---------------------------------------------------------------------------------------


def _row(item: Json) -> tuple[object, ...]:
    return (
        item["name"],
        render.state(item),
        item["spec"]["default"],
        item["status"]["rules"],
        [_place(attach) for attach in item["spec"]["attach"]],
    )


COLUMNS = ("name", "ready", "default", "rules", "attached")
verbs.add_list(app, "ruleset", "All rule sets, without their rules.", COLUMNS, _row, "rules")
verbs.add_show(app, "ruleset", "One rule set with all its rules, and its status.")
verbs.add_delete(
    app, "ruleset", "Remove a rule set with its rules; refused while a rule jumps to it."
)


@app.command()
def analysis(
    name: Name,
    kind: Annotated[
        list[str] | None,
        typer.Option(help="shadowed, redundant, contradictory, never_hit; again for more"),
    ] = None,
    output: render.OutputOption = render.Output.TABLE,
    url: UrlOption = None,
    token_file: TokenFileOption = None,
) -> None:
    """Rules that never act as they stand, each with a frame that shows it (-o json)."""
    found = client_for(url, token_file).items(f"/rulesets/{name}/analysis", kind=kind or [])
    rows = [(item["kind"], item["rule"], item["by"], item["message"]) for item in found]
    render.emit(found, output, render.table(("kind", "rule", "by", "message"), rows))


@app.command()
def apply(
    name: Name,
    file: File,
    label: edit.LabelOption = None,
    output: render.OutputOption = render.Output.TABLE,
    url: UrlOption = None,
    token_file: TokenFileOption = None,
) -> None:
    """Make the set what the file says (spec: default, attach, rules), all at once."""
    body = edit.body_of(_input(file), None, label, None, {})
    made = client_for(url, token_file).request("PUT", f"/rulesets/{name}", body=body)
    render.warn_not_ready("ruleset", made)
    table = render.table(
        ("name", "ready", "generation", "rules"),
        [(name, render.state(made), made["generation"], made["status"]["rules"])],
    )
    render.emit(made, output, table)


def _input(file: Path) -> Path:
    return Path("/dev/stdin") if str(file) == "-" else file


@app.command()
def counters(
    name: Name,
    output: render.OutputOption = render.Output.TABLE,
    url: UrlOption = None,
    token_file: TokenFileOption = None,
) -> None:
    """Frames and bytes that each rule matched, in the order of the rules."""
    found = client_for(url, token_file).items(f"/rulesets/{name}/counters", limit="1000")
    rows = [(item["id"], item["frames"], item["bytes"], item["last_hit"]) for item in found]
    columns = ("id", "frames", "bytes", "last hit")
    render.emit(found, output, render.table(columns, rows, right="frames bytes"))


@app.command("log")
def show_log(
    name: Name,
    limit: Annotated[int, typer.Option(help="most records", min=1, max=1000)] = 50,
    output: render.OutputOption = render.Output.TABLE,
    url: UrlOption = None,
    token_file: TokenFileOption = None,
) -> None:
    """The newest frames that rules with `log` met, newest first."""
    answer = client_for(url, token_file).get(f"/rulesets/{name}/log", limit=str(limit))
    rows = [
        (
            *(item["at"], item["rule"], item["action"], item["in_port"], item["out_port"]),
            *(item["frame_bytes"], item["head_hex"][:56]),
        )
        for item in answer["items"]
    ]
    columns = ("at", "rule", "action", "in", "out", "bytes", "head")
    render.emit(answer, output, render.table(columns, rows, right="bytes"))


@app.command("import")
def import_rules(
    name: Name,
    file: File,
    format: Annotated[str, typer.Option(help="of the file")] = "filterrule",
    bridge: Annotated[
        list[str] | None, typer.Option(help="attach there, by each rule's dir; again")
    ] = None,
    port: Annotated[
        list[str] | None, typer.Option(help="attach there, by each rule's dir; again")
    ] = None,
    output: render.OutputOption = render.Output.TABLE,
    url: UrlOption = None,
    token_file: TokenFileOption = None,
) -> None:
    """Make rule sets of another filter's table: a list of rules, or an object with `rules`."""
    try:
        loaded = yaml.safe_load(_input(file).read_text())
    except (OSError, yaml.YAMLError) as error:
        raise CliError(f"cannot read {file}: {error}", exit_code=2) from error
    body: Json = {"rules": loaded} if isinstance(loaded, list) else dict(loaded or {})
    body = {"format": format, **body}
    places = [{"bridge": one} for one in bridge or ()] + [{"port": one} for one in port or ()]
    if places:
        body["attach"] = places
    made = client_for(url, token_file).request("POST", f"/rulesets/{name}/import", body=body)
    rows = [(item["name"], item["direction"], item["rules"]) for item in made["items"]]
    columns = ("name", "direction", "rules")
    render.emit(made, output, render.table(columns, rows, right="rules"))


# --- rules --------------------------------------------------------------------------------------


@rules.command("list")
def list_rules(
    ruleset: Name,
    label: edit.LabelOption = None,
    output: render.OutputOption = render.Output.TABLE,
    url: UrlOption = None,
    token_file: TokenFileOption = None,
) -> None:
    """The rules of a set, in the order in which they are asked."""
    client = client_for(url, token_file)
    found = client.items(f"/rulesets/{ruleset}/rules", label=label or [], limit="1000")
    rows = [
        (
            item["id"],
            item["spec"]["priority"],
            render.state(item),
            _action(item["spec"]["action"]),
            words(item["spec"]["match"]) or "everything",
            item["spec"]["comment"],
        )
        for item in found
    ]
    columns = ("id", "priority", "ready", "action", "match", "comment")
    render.emit(found, output, render.table(columns, rows, right="priority"))


@rules.command("show")
def show_rule(
    ruleset: Name,
    id: Id,
    output: render.OutputOption = render.Output.YAML,
    url: UrlOption = None,
    token_file: TokenFileOption = None,
) -> None:
    """One rule, spec and status."""
    render.emit(client_for(url, token_file).get(f"/rulesets/{ruleset}/rules/{id}"), output)


@rules.command("put")
def put_rule(
    ruleset: Name,
    id: Id,
    action: Annotated[str | None, typer.Option(help="allow, drop, reject, log, ...")] = None,
    priority: Annotated[int | None, typer.Option(help="lower ones are asked first")] = None,
    field: edit.FieldOption = None,
    file: edit.FileOption = None,
    label: edit.LabelOption = None,
    description: edit.DescriptionOption = None,
    output: render.OutputOption = render.Output.YAML,
    url: UrlOption = None,
    token_file: TokenFileOption = None,
) -> None:
    """Make or replace one rule: --action drop -s match.ip.src=10.0.0.0/8."""
    spec: Json = {}
    if action is not None:
        spec["action"] = {"type": action}
    if priority is not None:
        spec["priority"] = priority
    body = edit.body_of(file, field, label, description, spec)
    path = f"/rulesets/{ruleset}/rules/{id}"
    made = client_for(url, token_file).request("PUT", path, body=body)
    render.warn_not_ready("rule", {**made, "name": f"{ruleset}/{id}"})
    render.emit(made, output)


@rules.command("delete")
def delete_rule(
    ruleset: Name,
    id: Id,
    url: UrlOption = None,
    token_file: TokenFileOption = None,
) -> None:
    """Remove one rule."""
    client_for(url, token_file).request("DELETE", f"/rulesets/{ruleset}/rules/{id}")
