"""Group: addresses, stations or ports that rules name together, changed on its own."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from vswitch.kinds import terms
from vswitch.kinds.resource import Condition, Output, Spec, fault_at

_SPELL = {"ip": terms.spell_ip, "mac": terms.spell_mac, "port": terms.spell_ports}
_MEMBER = r"^[0-9A-Fa-f.:/-]{1,91}$"


class GroupSpec(Spec):
    type: Literal["ip", "mac", "port"]
    members: Annotated[
        tuple[Annotated[str, StringConstraints(pattern=_MEMBER)], ...],
        Field(strict=False),
    ] = Field(
        (),
        description="ip: ADDRESS, ADDRESS/LENGTH or ADDRESS/MASK of both versions; mac: MAC or "
        "MAC/MASK; port: a port or FIRST-LAST. None: rules that name the group match nothing.",
        examples=[["10.0.0.0/8", "2001:db8::1"], ["80", "8000-8080"]],
    )

    @model_validator(mode="after")
    def _of_its_type(self) -> GroupSpec:
        spell = _SPELL[self.type]
        spelled = []
        for index, text in enumerate(self.members):
            try:
                spelled.append(spell(text))
            except ValueError as error:
                raise fault_at(("members", index), str(error)) from None
        object.__setattr__(self, "members", tuple(dict.fromkeys(spelled)))
        return self

    def masks(self) -> tuple[terms.Mask, ...]:
        """Of addresses; in one order, whatever the members'."""
        parse = {"ip": terms.ip_mask, "mac": terms.mac_mask}.get(self.type)
        return tuple(sorted({parse(text) for text in self.members})) if parse else ()

    def ranges(self) -> tuple[terms.Range, ...]:
        """Of ports."""
        if self.type != "port":
            return ()
        return terms.merge(terms.port_range(text) for text in self.members)


class GroupStatus(Output):
    conditions: list[Condition]
    observed_generation: int = Field(description="The generation that is in force.")
    referrers: list[str] = Field(description="Rule sets that name it.", examples=[["rulesets/fw"]])
