"""Rule sets and their rules: a whole set in one call, or one rule at a time."""

from typing import Annotated, Any

from fastapi import APIRouter, Path, Response

from vswitch.api.answers import (
    By,
    Cascade,
    Conditions,
    Cursor,
    LabelFilter,
    Limit,
    Match,
    Served,
    Wait,
    bad_cursor,
    decode_cursor,
    encode_cursor,
    etag,
    has_labels,
)
from vswitch.api.crud import (
    NamePath,
    add_list,
    add_object_routes,
    answer_deleted,
    answer_stored,
    answer_written,
    body_patch,
    page_of,
)
from vswitch.api.large import AnyBody, LargeRoute, answer, validated
from vswitch.kinds import RULE, RULESET, Configuration, Key
from vswitch.kinds.rule import RULE_ID_PATTERN
from vswitch.problems import not_found
from vswitch.values import NAME_PATTERN

RuleSetPath = Annotated[str, Path(pattern=NAME_PATTERN, description="Name of the rule set.")]
RuleIdPath = Annotated[str, Path(pattern=RULE_ID_PATTERN, description="The rule's id.")]


# --- sets ---------------------------------------------------------------------------------------


def list_rulesets(
    served: Served, label: LabelFilter = None, limit: Limit = 100, cursor: Cursor = None
) -> Any:
    return page_of(served, RULESET, label, limit, cursor)


def _with_rules(
    configuration: Configuration, document: dict[str, Any], response: Response
) -> Response:
    """A set's document with its rules, in the order in which they are asked."""
    rules = configuration.rules_of(document["name"]).ordered()
    entries = [{"id": rule.key.name, **rule.spec.document()} for rule in rules]
    return answer({**document, "spec": {**document["spec"], "rules": entries}}, response)


def get_ruleset(served: Served, response: Response, name: NamePath) -> Any:
    configuration = served.changes.current  # of one moment: the set, its ETag and its rules
    stored = configuration.rulesets.get(name)
    if stored is None:
        raise not_found(RULESET.title, name)
    response.headers["ETag"] = etag(stored.generation)
    return _with_rules(configuration, served.runtime.document(stored), response)


def put_ruleset(
    served: Served,
    by: By,
    response: Response,
    name: NamePath,
    conditions: Conditions,
    body: AnyBody,
    wait: Wait = "applied",
) -> Any:
    write = validated(RULESET.write, body)
    written = served.changes.put(Key("ruleset", name), write, conditions, by)
    document = answer_written(served, written, wait, response)
    return _with_rules(served.changes.current, document, response)


def patch_ruleset(
    served: Served,
    by: By,
    response: Response,
    name: NamePath,
    match: Match,
    body: AnyBody,
    wait: Wait = "applied",
) -> Any:
    patch = body_patch(validated(RULESET.patch, body))
    written = served.changes.patch(Key("ruleset", name), patch, match, by)
    document = answer_written(served, written, wait, response)
    return _with_rules(served.changes.current, document, response)


def delete_ruleset(
    served: Served,
    by: By,
    name: NamePath,
    match: Match,
    cascade: Cascade = False,
    wait: Wait = "applied",
) -> Response:
    written = served.changes.delete(Key("ruleset", name), match, by, cascade=cascade)
    return answer_deleted(served, written, wait)


# --- rules --------------------------------------------------------------------------------------


def list_rules(
    served: Served,
    ruleset: RuleSetPath,
    label: LabelFilter = None,
    limit: Limit = 100,
    cursor: Cursor = None,
) -> Any:
    """A page of the rules, in the order in which they are asked."""
    configuration = served.changes.current
    if ruleset not in configuration.rulesets:
        raise not_found(RULESET.title, ruleset)
    after = _position(cursor)
    found = [
        rule
        for rule in configuration.rules_of(ruleset).ordered()
        if (after is None or (rule.spec.priority, rule.key.name) > after)
        and has_labels(rule.labels, label)
    ]
    page = found[:limit]
    last = page[-1] if len(found) > limit else None
    return {
        "items": [served.runtime.document(rule) for rule in page],
        "next_cursor": encode_cursor(f"{last.spec.priority}/{last.key.name}") if last else None,
    }


def _position(cursor: str | None) -> tuple[int, str] | None:
    text = decode_cursor(cursor)
    if not text:
        return None
    priority, _, id = text.partition("/")
    try:
        return int(priority), id
    except ValueError as error:
        raise bad_cursor() from error


def get_rule(served: Served, response: Response, ruleset: RuleSetPath, id: RuleIdPath) -> Any:
    return answer(answer_stored(served, Key("rule", id, ruleset), response), response)


def put_rule(
    served: Served,
    by: By,
    response: Response,
    ruleset: RuleSetPath,
    id: RuleIdPath,
    conditions: Conditions,
    body: AnyBody,
    wait: Wait = "applied",
) -> Any:
    write = validated(RULE.write, body)
    written = served.changes.put(Key("rule", id, ruleset), write, conditions, by)
    return answer(answer_written(served, written, wait, response), response)


def patch_rule(
    served: Served,
    by: By,
    response: Response,
    ruleset: RuleSetPath,
    id: RuleIdPath,
    match: Match,
    body: AnyBody,
    wait: Wait = "applied",
) -> Any:
    patch = body_patch(validated(RULE.patch, body))
    written = served.changes.patch(Key("rule", id, ruleset), patch, match, by)
    return answer(answer_written(served, written, wait, response), response)


def delete_rule(
    served: Served,
    by: By,
    ruleset: RuleSetPath,
    id: RuleIdPath,
    match: Match,
    wait: Wait = "applied",
) -> Response:
    written = served.changes.delete(Key("rule", id, ruleset), match, by, cascade=False)
    return answer_deleted(served, written, wait)


router = APIRouter(prefix="/rulesets", tags=["rulesets"], route_class=LargeRoute)
add_list(
    router, "", RULESET.page, list_rulesets, "list_rulesets", "All rule sets, without their rules."
)
add_object_routes(
    router, "/{name}", RULESET, (get_ruleset, put_ruleset, patch_ruleset, delete_ruleset)
)
add_list(router, "/{ruleset}/rules", RULE.page, list_rules, "list_rules", "Rules in their order.")
add_object_routes(
    router, "/{ruleset}/rules/{id}", RULE, (get_rule, put_rule, patch_rule, delete_rule)
)
