"""What all sections of `params.yaml` share: frozen, strict, and the types of single values."""

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Part = Annotated[str, Field(pattern=r"^[0-9]{2}$")]
Split = Literal["train", "val", "test"]
Interval = tuple[Positive, Positive]
# `dvc exp run -S train.precision=32` writes a number
Precision = Annotated[
    Literal["auto", "bf16", "32"],
    BeforeValidator(lambda value: "32" if repr(value) == "32" else value),
    WithJsonSchema({"enum": ["auto", "bf16", "32", 32]}),
]


class Section(BaseModel):
    """A frozen section that refuses keys it does not know and does not guess types (an int may stand for a float)."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, validate_default=True)

    @model_validator(mode="before")
    @classmethod
    def _lists_are_tuples(cls, values: object) -> object:
        if isinstance(values, dict):
            return {key: _frozen(value) for key, value in values.items()}
        return values


def _frozen(value: object) -> object:
    return tuple(_frozen(v) for v in value) if isinstance(value, list) else value
