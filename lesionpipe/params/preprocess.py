"""Section `preprocess`: the stored slices."""

from typing import Self

from pydantic import Field, model_validator

from lesionpipe.params.section import Positive, Section


class Preprocess(Section):
    image_size: int = Field(ge=64, le=2048, multiple_of=32)
    slices: int = Field(ge=1, le=31)
    hu: tuple[int, int]
    spacing_mm: Positive

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.slices % 2 == 0:
            raise ValueError(f"slices = {self.slices}: must be odd, so that the lesion slice lies in the middle")
        if not -32768 <= self.hu[0] < self.hu[1] <= 32767:
            raise ValueError(f"hu = {list(self.hu)}: must be two rising values from -32768 to 32767")
        return self
