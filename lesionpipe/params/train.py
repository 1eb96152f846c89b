"""Section `train`: optimiser, schedule, augmentation."""

from typing import Literal

from pydantic import Field

from lesionpipe.params.section import Fraction, Positive, Precision, Section, Seed


class Train(Section):
    seed: Seed
    epochs: int = Field(ge=1, le=1_000_000)
    batch_size: int = Field(ge=1, le=10_000)
    learning_rate: Positive
    schedule: Literal["plateau", "cosine"]
    warmup_epochs: float = Field(ge=0, allow_inf_nan=False)
    lr_patience: int = Field(ge=1)
    lr_factor: float = Field(gt=0, lt=1)
    early_stopping_patience: int = Field(ge=1)
    gradient_clip_norm: Positive | None
    mask_loss_weight: float = Field(ge=0, allow_inf_nan=False)
    precision: Precision
    compile: bool
    channels_last: bool
    flip: Fraction
    rotation_rad: float = Field(ge=0, le=3.15)
    shear_rad: float = Field(ge=0, le=1)
    scale: float = Field(ge=0, lt=1)
    translation: float = Field(ge=0, lt=1)
