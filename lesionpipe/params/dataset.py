"""Section `dataset`: which slices and annotations the pipeline reads."""

from typing import Literal, Self

from pydantic import Field, model_validator

from lesionpipe.params.section import Part, Section


class Dataset(Section):
    source: Literal["phantom", "nih", "archives", "folder"]
    parts: tuple[Part, ...] = Field(min_length=1)
    path: str | None
    annotations: str | None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if len(set(self.parts)) < len(self.parts):
            raise ValueError(f"parts = {list(self.parts)}: each part may stand only once")
        if "\0" in (self.path or ""):
            raise ValueError(f"path = {self.path!r}: holds a NUL character, which no path can")
        if self.source in ("archives", "folder") and not self.path:
            raise ValueError(f"path = {self.path}: source '{self.source}' needs the folder that holds the data")
        return self
