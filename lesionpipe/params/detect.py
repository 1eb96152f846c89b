"""Section `detect`: from the trained detector to boxes."""

from typing import Self

from pydantic import Field, model_validator

from lesionpipe.params.section import Fraction, Precision, Section, Split


class Detect(Section):
    splits: tuple[Split, ...] = Field(min_length=1)
    batch_size: int = Field(ge=1, le=10_000)
    precision: Precision
    score_threshold: Fraction
    topk_candidates: int = Field(ge=1, le=1_000_000)
    nms_iou: Fraction
    detections_per_image: int = Field(ge=1, le=1_000_000)
    calibrate: bool
    mask_threshold: Fraction
    recist_margin_px: float = Field(ge=0, allow_inf_nan=False)
    compile: bool

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if len(set(self.splits)) < len(self.splits):
            raise ValueError(f"splits = {list(self.splits)}: each split may stand only once")
        return self
