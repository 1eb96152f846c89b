"""Section `masks`: from RECIST diameters to dense masks."""

from typing import Literal

from pydantic import Field

from lesionpipe.params.section import Section


class Masks(Section):
    method: Literal["grabcut", "ellipse", "box-dilation"]
    crop_margin: float = Field(ge=0.1, le=10)
    background_ellipse_factor: float | None = Field(ge=1, le=10)
    full_slice: bool
    iterations: int = Field(ge=1, le=50)
