"""The sections of `params.yaml` in its order: types, limits and the rules that tie several parameters together.

What a parameter means is said beside it in `params.yaml`.
"""

import itertools
from typing import Annotated, Literal, Self, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

Value = TypeVar("Value")


def _rising(values: tuple[float, ...]) -> tuple[float, ...]:
    if any(f"{a:g}" == f"{b:g}" or a > b for a, b in itertools.pairwise(values)):
        raise ValueError("must rise, and differ in the first six digits")
    return values


def _different(values: tuple[Value, ...]) -> tuple[Value, ...]:
    if len(set(values)) < len(values):
        raise ValueError("each may stand only once")
    return values


# `strict=False`: what is a list in YAML becomes a tuple
Several = Annotated[tuple[Value, ...], Field(strict=False)]
Rising = Annotated[Several[Value], AfterValidator(_rising)]
Different = Annotated[Several[Value], Field(min_length=1), AfterValidator(_different)]
Interval = Annotated[tuple[Value, Value], Field(strict=False), AfterValidator(_rising)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Factor = Annotated[float, Field(gt=0, le=100)]  # of anchors' scales, ratios and sizes
Rate = Annotated[float, Field(gt=0, le=10_000)]  # false positives per image
Hounsfield = Annotated[int, Field(ge=-32768, le=32767)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Part = Annotated[str, Field(pattern=r"^[0-9]{2}$")]
Split = Literal["train", "val", "test"]
Precision = Annotated[Literal["auto", "bf16", "32", 32], AfterValidator(str)]  # `-S train.precision=32` writes a number


class Section(BaseModel):
    """Frozen; refuses keys it does not know and does not guess types (an int may stand for a float)."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Dataset(Section):
    source: Literal["phantom", "nih", "archives", "folder"]
    parts: Different[Part]
    path: str | None
    annotations: str | None

    @field_validator("path")
    @classmethod
    def _usable(cls, path: str | None, others: ValidationInfo) -> str | None:
        if "\0" in (path or ""):
            raise ValueError("holds a NUL character, which no path can")
        if not path and (source := others.data.get("source")) in ("archives", "folder"):
            raise ValueError(f"source '{source}' needs the folder that holds the data")
        return path


class Phantom(Section):
    seed: Seed
    patients_per_part: int = Field(ge=3, le=9999)
    extra_test_patients: int = Field(ge=0, le=100)
    key_slices_per_patient: int = Field(ge=1, le=50)
    image_size: int = Field(ge=64, le=1024)
    context_mm: float = Field(ge=2, le=100)


class Download(Section):
    annotation_urls: Several[str]
    retries: int = Field(ge=0, le=100)
    timeout_s: Positive
    archives: str | None


class Lesions(Section):
    noisy: Literal["keep", "drop"]


class Preprocess(Section):
    image_size: int = Field(ge=64, le=2048, multiple_of=32)
    slices: int = Field(ge=1, le=31)
    hu: Interval[Hounsfield]
    spacing_mm: Positive

    @field_validator("slices")
    @classmethod
    def _odd(cls, slices: int) -> int:
        if slices % 2 == 0:
            raise ValueError("must be odd, so that the lesion slice lies in the middle")
        return slices


class Masks(Section):
    method: Literal["grabcut", "ellipse", "quarter-ellipses", "box-dilation"]
    crop_margin: float = Field(ge=0.1, le=10)
    background_ellipse_factor: float | None = Field(ge=1, le=10)
    full_slice: bool
    iterations: int = Field(ge=1, le=50)


class Anchors(Section):
    use: Literal["searched", "default", "paper"]
    sizes: Several[Positive] = Field(min_length=1)
    placement: Literal["grid", "concentric"]
    objective: Literal["iou", "focal"]
    split: Split
    scales: int = Field(ge=1, le=10)
    ratio_pairs: int = Field(ge=0, le=5)
    scale_bounds: Interval[Factor]
    ratio_bounds: Several[Interval[Factor]]
    size_bounds: Interval[Factor] | None
    population: int = Field(ge=4, le=1000)
    generations: int = Field(ge=1, le=100000)
    mutation: float = Field(gt=0, lt=2)
    seed: Seed

    @field_validator("ratio_bounds")
    @classmethod
    def _one_for_each_pair(cls, bounds: tuple[tuple[float, float], ...], others: ValidationInfo) -> tuple:
        if len(bounds) != (pairs := others.data.get("ratio_pairs", len(bounds))):
            raise ValueError(f"must hold {pairs} [low, high], one per pair")
        if any(low < 1 for low, _ in bounds):
            raise ValueError("start at 1, as a ratio stands for its reciprocal too")
        return bounds


class Network(Section):
    kind: Literal["retinanet", "faster-rcnn", "mask-rcnn", "3dce"]
    backbone: Literal["small", "vgg16", "vgg16_bn", "vgg19", "vgg19_bn", "resnet50", "resnet101"]
    weights: str | None
    windows: Several[Interval[Hounsfield]]
    levels: Literal["P2-P6", "P3-P7"]
    channels: int = Field(ge=8, le=1024, multiple_of=8)
    head_depth: int = Field(ge=1, le=8)
    head_channels: int = Field(ge=8, le=1024, multiple_of=8)
    mask_branch: bool
    attention: Literal[True, False, "pyramid", "mask"]
    stride: Literal[4, 8, 16]
    hard_negative_class: bool

    @field_validator("attention", mode="before")
    @classmethod
    def _no_number(cls, attention: object) -> object:
        if type(attention) in (int, float):  # 1 equals true
            raise ValueError("must be true, false, 'pyramid' or 'mask'")
        return attention


class Train(Section):
    seed: Seed
    epochs: int = Field(ge=1, le=1_000_000)
    batch_size: int = Field(ge=1, le=10_000)
    optimizer: Literal["adam", "muon"]
    learning_rate: Positive
    schedule: Literal["plateau", "cosine"]
    warmup_epochs: NotNegative
    lr_patience: int = Field(ge=1)
    lr_factor: float = Field(gt=0, lt=1)
    early_stopping_patience: int = Field(ge=1)
    gradient_clip_norm: Positive | None
    mask_loss_weight: NotNegative
    precision: Precision
    compile: bool
    channels_last: bool
    hard_negatives: str | None
    flip: Fraction
    rotation_rad: float = Field(ge=0, le=3.15)
    shear_rad: float = Field(ge=0, le=1)
    scale: float = Field(ge=0, lt=1)
    translation: float = Field(ge=0, lt=1)
    crop: float = Field(ge=0.25, le=1)


class Detect(Section):
    splits: Different[Split]
    batch_size: int = Field(ge=1, le=10_000)
    precision: Precision
    score_threshold: Fraction
    topk_candidates: int = Field(ge=1, le=1_000_000)
    proposals: int = Field(ge=1, le=100_000)
    nms_iou: Fraction | None
    detections_per_image: int = Field(ge=1, le=1_000_000)
    calibrate: bool
    mask_threshold: Fraction
    recist_margin_px: NotNegative
    compile: bool


class Evaluate(Section):
    iou: float = Field(gt=0, le=1)
    fp_rates: Rising[Rate] = Field(min_length=1)
    size_edges_mm: Rising[Positive]
    bootstrap: int = Field(ge=0, le=1_000_000)
    seed: Seed
    operating_fp: Rate
    report_slices: int = Field(ge=0, le=1_000_000)


class Runtime(Section):
    workers: int = Field(ge=0)
    downloads: int = Field(ge=1, le=32)
    device: Literal["auto", "cpu", "cuda", "mps", "xpu"]
    devices: int = Field(ge=1)
    nodes: int = Field(ge=1)
    cluster: str | None = Field(pattern=r"^(tcp|tls|ucx|ws|wss)://.")


class Params(Section):
    dataset: Dataset
    phantom: Phantom
    download: Download
    lesions: Lesions
    preprocess: Preprocess
    masks: Masks
    anchors: Anchors
    network: Network
    train: Train
    detect: Detect
    evaluate: Evaluate
    runtime: Runtime

    @model_validator(mode="after")
    def _go_together(self) -> Self:
        """Rules that tie sections together; each message names the parameter to change."""
        kind, slices, train = self.network.kind, self.preprocess.slices, self.train
        reach = slices // 2 * self.preprocess.spacing_mm
        bottom, top = self.preprocess.hu
        for low, high in self.network.windows:
            if high <= bottom or low >= top:
                hu = f"preprocess.hu = [{bottom}, {top}]"
                raise ValueError(f"network.windows = [{low}, {high}]: shows nothing of {hu}")
        if kind == "3dce" and slices % 6 != 3:
            raise ValueError(f"preprocess.slices = {slices}: network.kind = 3dce needs 3, 9, 15, 21 or 27 of them")
        if kind == "3dce" and self.dataset.source == "phantom" and self.phantom.context_mm < reach:
            raise ValueError(f"phantom.context_mm = {self.phantom.context_mm:g}: {slices} slices need {reach:g} mm")
        if kind != "retinanet" and self.network.levels != "P2-P6":
            raise ValueError(
                f"network.levels = {self.network.levels}: only network.kind = retinanet has them, not {kind}"
            )
        if kind == "retinanet" and self.network.attention == "mask" and not self.network.mask_branch:
            raise ValueError("network.attention = mask: there is no mask branch; set network.mask_branch to true")
        if kind == "retinanet" and train.hard_negatives:
            raise ValueError(
                f"train.hard_negatives = {train.hard_negatives}: network.kind = retinanet learns from all anchors "
                "already; empty it"
            )
        if self.network.hard_negative_class and not train.hard_negatives:
            raise ValueError("network.hard_negative_class = true: needs train.hard_negatives")
        return self
