"""Section `anchors`: which anchors are used, and how they are searched."""

from typing import Literal, Self

from pydantic import Field, model_validator

from lesionpipe.params.section import Interval, Positive, Section, Seed, Split

LARGEST_RATIO = 100


class Anchors(Section):
    use: Literal["searched", "default", "paper"]
    sizes: tuple[Positive, ...] = Field(min_length=1)
    placement: Literal["grid", "concentric"]
    objective: Literal["iou", "focal"]
    split: Split
    scales: int = Field(ge=1, le=10)
    ratio_pairs: int = Field(ge=0, le=5)
    scale_bounds: Interval
    ratio_bounds: tuple[Interval, ...]
    size_bounds: Interval | None
    population: int = Field(ge=4, le=1000)
    generations: int = Field(ge=1, le=100000)
    mutation: float = Field(gt=0, lt=2)
    seed: Seed

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if len(self.ratio_bounds) != self.ratio_pairs:
            raise ValueError(
                f"ratio_bounds = {self.ratio_bounds}: must hold {self.ratio_pairs} [low, high], one per pair"
            )
        sizes = () if self.size_bounds is None else (self.size_bounds,)
        intervals = {"scale_bounds": (self.scale_bounds,), "ratio_bounds": self.ratio_bounds, "size_bounds": sizes}
        for name, bounds in intervals.items():
            if any(low >= high for low, high in bounds):
                raise ValueError(f"{name} = {getattr(self, name)}: each [low, high] must rise")
            if any(high > LARGEST_RATIO for _, high in bounds):
                raise ValueError(f"{name} = {getattr(self, name)}: nothing above {LARGEST_RATIO}")
        if any(low < 1 for low, _ in self.ratio_bounds):
            raise ValueError(
                f"ratio_bounds = {self.ratio_bounds}: start at 1, as a ratio stands for its reciprocal too"
            )
        return self
