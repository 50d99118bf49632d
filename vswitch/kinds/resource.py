"""What all resources have in common: models of a write, a patch and a read, and the stored form.

A resource is declared once, by its Spec (frozen, defaults, nothing unknown allowed). From it are
derived the models that OpenAPI needs apart, so that every generator gives a clean client:

    <Kind>SpecPatch   every field optional, none nullable that is not nullable in the Spec
    <Kind>SpecRead    every field present (defaults are materialised; only what is Partial leaves
                      out what says nothing), unknown ones allowed, and words that may grow are
                      plain strings
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from types import NoneType, UnionType
from typing import (
    Annotated,
    Any,
    Generic,
    Literal,
    NamedTuple,
    TypeAlias,
    TypeVar,
    Union,
    cast,
    get_args,
    get_origin,
)

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    create_model,
    model_serializer,
)
from pydantic.fields import FieldInfo
from pydantic_core import InitErrorDetails, PydanticCustomError
from typing_extensions import TypeAliasType


class Input(BaseModel):
    """What a client sends: nothing unknown, no conversions ("1" is no number)."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, validate_by_name=True)


class Spec(Input):
    """The part of an object that says what is wanted."""

    def document(self) -> dict[str, Any]:
        """As JSON, defaults materialised, with the names of the API."""
        return self.model_dump(mode="json", by_alias=True)


class Partial(Spec):
    """A part whose absent members say nothing: they are left out when it is read, too."""

    @model_serializer(mode="wrap")
    def _present(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in handler(self).items() if value is not None}


def fault_at(place: tuple[str | int, ...], message: str) -> ValidationError:
    """To be raised by a validator: the fault of a member, not of the whole."""
    fault = PydanticCustomError("value_error", cast("Any", message))
    line = InitErrorDetails(type=fault, loc=place, input=None)
    return ValidationError.from_exception_data("value", [line])


class Output(BaseModel):
    """What the server answers; may grow."""

    model_config = ConfigDict(frozen=True)


class Condition(Output):
    type: str = Field(description="Ready, LinkUp, OffloadsSafe, PrivilegesOk; MtuFits of tunnels")
    status: str = Field(description="True, False or Unknown")
    reason: str = Field(description="A stable code.", examples=["IN_FORCE", "IFACE_NOT_FOUND"])
    message: str
    hint: str = Field(description="What to do about it, often a command; may be empty.")
    last_transition: datetime = Field(description="When status last changed.")


S_co = TypeVar("S_co", bound=Spec, covariant=True)
AnyModel: TypeAlias = type[BaseModel]


class Key(NamedTuple):
    """Names an object in all of the configuration. ``parent``: the bridge that a static entry
    lives in, the set of a rule."""

    kind: str
    name: str
    parent: str = ""

    @property
    def path(self) -> str:
        if self.kind == "fdb":
            return f"bridges/{self.parent}/fdb/{self.name}"
        if self.kind == "rule":
            return f"rulesets/{self.parent}/rules/{self.name}"
        return f"{self.kind}s/{self.name}"


@dataclass(frozen=True, slots=True)
class Stored(Generic[S_co]):
    """An object of the desired configuration. ``revision``: the one that changed it last."""

    key: Key
    uid: str
    labels: Mapping[str, str]
    description: str
    generation: int
    revision: int
    spec: S_co
    created_at: datetime
    updated_at: datetime


# --- derived models -----------------------------------------------------------------------------


def _rename(model: AnyModel, suffix: str) -> str:
    return f"{model.__name__}{suffix}"


_derived: dict[tuple[AnyModel, str], AnyModel] = {}


def patch_of(model: AnyModel) -> AnyModel:
    """Every field may be left out. A union's tag may not: it says which shape is meant."""
    return _derive(model, "Patch", Input)


def read_of(model: AnyModel) -> AnyModel:
    return _derive(model, "Read", Output)


def _derive(model: AnyModel, suffix: str, base: AnyModel) -> AnyModel:
    done = _derived.get((model, suffix))
    if done is None:
        optional = suffix == "Patch" or issubclass(model, Partial)
        fields: dict[str, Any] = {
            name: _field(info, suffix, optional) for name, info in model.model_fields.items()
        }
        done = create_model(_rename(model, suffix), __base__=base, __doc__=model.__doc__, **fields)
        _derived[model, suffix] = done
    return done


def _field(info: FieldInfo, suffix: str, optional: bool) -> tuple[Any, Any]:
    annotation, words = _convert(info.annotation, suffix)
    description = info.description or ""
    if words:
        listed = "one of " + ", ".join(words)
        description = f"{description} ({listed})" if description else listed.capitalize()
    options: dict[str, Any] = {"description": description or None, "examples": info.examples}
    if info.alias:
        options["alias"] = info.alias
    is_tag = get_origin(info.annotation) is Literal and len(get_args(info.annotation)) == 1
    if suffix == "Patch":
        constrained: Any = annotation
        for item in info.metadata:
            constrained = Annotated[constrained, item]
        if is_tag and info.is_required():
            return constrained, Field(**options)
        # A factory leaves no default in the schema; what was left out is known by fields_set.
        return constrained, Field(default_factory=_absent, **options)
    if optional and not info.is_required():
        return annotation, Field(default_factory=_absent, **options)
    return annotation, Field(**options)


def _absent() -> None:
    """Stands for a member that is left out."""


def _convert(annotation: Any, suffix: str) -> tuple[Any, tuple[str, ...]]:
    """The annotation in the derived model, and the words of an enum that became a string."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return _derive(annotation, suffix, Input if suffix == "Patch" else Output), ()
    if isinstance(annotation, TypeAliasType):
        return _convert_alias(annotation, suffix), ()
    origin = get_origin(annotation)
    if origin is Literal:
        words = get_args(annotation)
        if suffix == "Read" and len(words) > 1:
            return type(words[0]), tuple(str(word) for word in words)
        return annotation, ()
    if origin in (Union, UnionType) and NoneType in get_args(annotation):
        (inner,) = (arg for arg in get_args(annotation) if arg is not NoneType)
        converted, words = _convert(inner, suffix)
        return converted | None, words
    if suffix == "Read" and origin in (tuple, list):
        converted, words = _convert(get_args(annotation)[0], suffix)
        return list[converted], words  # type: ignore[valid-type]
    return annotation, ()


_aliases: dict[tuple[str, str], TypeAliasType] = {}


def _convert_alias(alias: TypeAliasType, suffix: str) -> Any:
    """A tagged union: the union of the derived members, under a derived name."""
    key = (alias.__name__, suffix)
    if key not in _aliases:
        union = get_args(alias.__value__)[0]
        members = tuple(_convert(member, suffix)[0] for member in get_args(union))
        joined: Any = Union.__getitem__(members)
        value: Any = Annotated[joined, Field(discriminator="type")]
        _aliases[key] = TypeAliasType(f"{alias.__name__}{suffix}", value)
    return cast("Any", _aliases[key])
