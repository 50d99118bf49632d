"""Policer: a rate that all rules naming it share."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from vswitch.kinds.resource import Condition, Output, Spec

BURST_S = 0.1
BURST_BYTES_MIN, BURST_FRAMES_MIN = 65_536, 32


class PolicerSpec(Spec):
    unit: Literal["bits_per_s", "frames_per_s"] = "bits_per_s"
    rate: Annotated[int, Field(ge=1, le=10**12)] = Field(
        description="Bits or frames a second; frames are counted from the Ethernet header on."
    )
    burst: Annotated[int, Field(ge=1, le=2**40)] | None = Field(
        None,
        description="Bytes or frames that may come at once. null: what the rate gives in "
        f"{BURST_S:g} s, and at least {BURST_BYTES_MIN} bytes or {BURST_FRAMES_MIN} frames.",
    )

    @property
    def frames(self) -> bool:
        return self.unit == "frames_per_s"

    @property
    def effective_burst(self) -> int:
        if self.burst is not None:
            return self.burst
        if self.frames:
            return max(int(self.rate * BURST_S), BURST_FRAMES_MIN)
        return max(int(self.rate / 8 * BURST_S), BURST_BYTES_MIN)


class PolicerStatus(Output):
    conditions: list[Condition]
    observed_generation: int = Field(description="The generation that is in force.")
    burst: int = Field(description="Bytes or frames: what is in force where `burst` is null.")
    passed: int = Field(description="Frames within the rate.")
    dropped: int = Field(description="Frames beyond it.")
