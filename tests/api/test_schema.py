"""openapi.json: golden, valid, true of what the server does, and good for a generated client."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from openapi_spec_validator import validate

from tests.api.conftest import Api
from vswitch.app import create_app
from vswitch.openapi import dumps

ROOT = Path(__file__).parents[2]
SCHEMA: dict[str, Any] = create_app().openapi()


def test_openapi_json_is_what_the_code_says() -> None:
    assert (ROOT / "openapi.json").read_text() == dumps(SCHEMA), "run: make openapi"


def test_openapi_json_is_valid() -> None:
    validate(SCHEMA)


def _operations() -> list[tuple[str, str, dict[str, Any]]]:
    return [
        (method, path, operation)
        for path, item in SCHEMA["paths"].items()
        for method, operation in item.items()
    ]


def test_operations_have_unique_names_and_say_how_they_fail() -> None:
    names = [operation["operationId"] for _, _, operation in _operations()]
    assert len(set(names)) == len(names)
    for _, _, operation in _operations():
        for status, answer in operation["responses"].items():
            if status >= "400":
                assert list(answer["content"]) == ["application/problem+json"], operation


def _properties(schema: dict[str, Any]) -> set[str]:
    """Names of all components a schema uses, itself and nested."""
    found: set[str] = set()
    text = json.dumps(schema)
    while "#/components/schemas/" in text:
        text = text.split("#/components/schemas/", 1)[1]
        found.add(text.split('"', 1)[0])
    return found


def _closure(names: set[str]) -> set[str]:
    seen: set[str] = set()
    while names:
        seen |= names
        names = {
            used for name in names for used in _properties(SCHEMA["components"]["schemas"][name])
        } - seen
    return seen


def test_inputs_are_strict_and_answers_are_open() -> None:
    """What a client sends may hold nothing unknown; what it gets may grow."""
    inputs: set[str] = set()
    outputs: set[str] = set()
    for _, _, operation in _operations():
        inputs |= _properties(operation.get("requestBody", {}))
        outputs |= _properties(operation["responses"])
    inputs, outputs = _closure(inputs), _closure(outputs)
    assert not inputs & outputs
    for name, schema in SCHEMA["components"]["schemas"].items():
        if "properties" in schema or schema.get("type") == "object":
            strict = schema.get("additionalProperties") is False
            assert strict == (name in inputs), name
        assert name in inputs | outputs, f"nobody uses {name}"


# --- the server does what the document says -------------------------------------------------------


@pytest.mark.filterwarnings("default")
def test_schemathesis_finds_nothing(api: Api) -> None:
    """Examples, edges of the schema, random data and sequences, over all operations."""
    api.bridge("br0")
    api.port("p1")
    # Not what is sent but what is there decides about preconditions and references.
    (api.home / "schemathesis.toml").write_text(
        "[checks.negative_data_rejection]\n"
        "expected-statuses = [400, 401, 403, 404, 405, 409, 413, 415, 422, 428]\n"
        "[checks.positive_data_acceptance]\n"
        'expected-statuses = ["2xx", 401, 403, 404, 409, 412, 422, 503]\n'
    )
    command = [
        str(Path(sys.executable).with_name("schemathesis")),
        "run",
        str(ROOT / "openapi.json"),
        f"--url=http://localhost:{api.port_number}",
        f"--header=Authorization: Bearer {api.token}",
        "--checks=all",
        "--max-examples=2",
        "--seed=1",
        "--no-color",
        "--continue-on-failure",
    ]
    result = subprocess.run(command, capture_output=True, text=True, timeout=900, cwd=api.home)
    assert result.returncode == 0, result.stdout[-20_000:] + result.stderr[-2000:]
