"""Section `evaluate`: the FROC, its intervals and groups, and the report."""

import itertools
from typing import Annotated, Self

from pydantic import Field, model_validator

from lesionpipe.params.section import Positive, Section, Seed

Rate = Annotated[float, Field(gt=0, le=10_000)]  # false positives per image


class Evaluate(Section):
    iou: float = Field(gt=0, le=1)
    fp_rates: tuple[Rate, ...] = Field(min_length=1)
    size_edges_mm: tuple[Positive, ...]
    bootstrap: int = Field(ge=0, le=1_000_000)
    seed: Seed
    operating_fp: Rate
    report_slices: int = Field(ge=0, le=1_000_000)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for name in ("fp_rates", "size_edges_mm"):
            values = getattr(self, name)
            if any(f"{a:g}" == f"{b:g}" or a > b for a, b in itertools.pairwise(values)):
                raise ValueError(f"{name} = {list(values)}: must rise, and differ in their first six digits")
        return self
