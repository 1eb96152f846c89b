"""Typed parameters: `params.yaml` becomes one frozen section per stage, and what is wrong is refused by its full name.

Unknown keys, wrong types and impossible values stop a stage before any work. The meaning of each knob is told beside it
in `params.yaml`; here stand its type, its limits and the rules that tie several together.
"""

import itertools
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from lesionpipe.errors import UserError

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
Part = Annotated[str, Field(pattern=r"^[0-9]{2}$")]
Split = Literal["train", "val", "test"]
Interval = tuple[Positive, Positive]
# `dvc exp run -S train.precision=32` writes a number
Precision = Annotated[Literal["32", "bf16"], BeforeValidator(lambda value: "32" if repr(value) == "32" else value)]
FOLDER_LISTING = "data/listing.csv"  # of an extracted folder, an output of the stage `listing`


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


class Dataset(Section):
    source: Literal["phantom", "nih", "archives", "folder"]
    parts: tuple[Part, ...] = Field(min_length=1)
    path: str | None
    annotations: str | None
    watch: tuple[Literal["folder"], ...] = Field(max_length=1)
    listing: str

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if len(set(self.parts)) < len(self.parts):
            raise ValueError(f"parts = {list(self.parts)}: each part may stand only once")
        if self.source in ("archives", "folder") and not self.path:
            raise ValueError(f"path = {self.path}: source '{self.source}' needs the folder that holds the data")
        if bool(self.watch) != (self.source == "folder"):
            allowed = "[folder], as in presets/deeplesion-folder.yaml" if self.source == "folder" else "[]"
            raise ValueError(f"watch = {list(self.watch)}: source '{self.source}' needs {allowed}")
        if self.source == "folder" and self.listing != FOLDER_LISTING:
            raise ValueError(
                f"listing = {self.listing}: source 'folder' needs {FOLDER_LISTING}, "
                "as in presets/deeplesion-folder.yaml"
            )
        return self


class Phantom(Section):
    seed: int = Field(ge=0)
    patients_per_part: int = Field(ge=3, le=9999)
    key_slices_per_patient: int = Field(ge=1, le=50)
    image_size: int = Field(ge=64, le=1024)


class Download(Section):
    retries: int = Field(ge=0, le=100)
    timeout_s: Positive
    annotation_urls: tuple[str, ...]


class Lesions(Section):
    noisy: Literal["keep", "drop"]


class Preprocess(Section):
    size: int = Field(ge=64, le=2048, multiple_of=32)
    slices: int = Field(ge=1, le=31)
    spacing_mm: Positive
    hu: tuple[int, int]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.slices % 2 == 0:
            raise ValueError(f"slices = {self.slices}: must be odd, so that the lesion slice lies in the middle")
        if not -32768 <= self.hu[0] < self.hu[1] <= 32767:
            raise ValueError(f"hu = {list(self.hu)}: must be two rising values from -32768 to 32767")
        return self


class Masks(Section):
    method: Literal["grabcut", "ellipse", "box-dilation"]
    margin: float = Field(ge=0.1, le=10)
    reach: float | None = Field(ge=1, le=10)
    full_slice: bool
    iterations: int = Field(ge=1, le=50)


class Anchors(Section):
    use: Literal["searched", "default", "paper"]
    sizes: tuple[Positive, ...] = Field(min_length=1)
    objective: Literal["grid", "concentric"]
    score: Literal["iou", "focal"]
    split: Split
    scales: int = Field(ge=1, le=10)
    ratio_pairs: int = Field(ge=0, le=5)
    scale_bounds: Interval
    ratio_bounds: tuple[Interval, ...]
    size_bounds: Interval | None
    population: int = Field(ge=4, le=1000)
    generations: int = Field(ge=1, le=100000)
    mutation: float = Field(gt=0, lt=2)
    seed: int = Field(ge=0)

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
        if any(low < 1 for low, _ in self.ratio_bounds):
            raise ValueError(
                f"ratio_bounds = {self.ratio_bounds}: start at 1, as a ratio stands for its reciprocal too"
            )
        return self


class Network(Section):
    backbone: Literal["small", "vgg16", "vgg16_bn", "vgg19", "vgg19_bn", "resnet50"]
    weights: str | None
    levels: Literal["P2-P6", "P3-P7"]
    channels: int = Field(ge=8, le=1024, multiple_of=8)
    head_depth: int = Field(ge=1, le=8)
    head_channels: int = Field(ge=8, le=1024, multiple_of=8)
    mask_branch: bool
    attention: bool

    @property
    def level_numbers(self) -> tuple[int, ...]:
        """Pyramid levels, finest first; the stride of level n is 2**n."""
        first, last = (int(name[1:]) for name in self.levels.split("-"))
        return tuple(range(first, last + 1))


class Train(Section):
    seed: int = Field(ge=0)
    epochs: int = Field(ge=1)
    batch: int = Field(ge=1)
    learning_rate: Positive
    schedule: Literal["plateau", "cosine"]
    warmup_epochs: float = Field(ge=0, allow_inf_nan=False)
    drop_after: int = Field(ge=1)
    drop_factor: float = Field(gt=0, lt=1)
    stop_after: int = Field(ge=1)
    clip_norm: Positive | None
    mask_weight: float = Field(ge=0)
    precision: Precision
    compile: bool
    channels_last: bool
    flip: Share
    rotation_rad: float = Field(ge=0, le=3.15)
    shear_rad: float = Field(ge=0, le=1)
    scale: float = Field(ge=0, lt=1)
    translation: float = Field(ge=0, lt=1)


class Detect(Section):
    splits: tuple[Split, ...] = Field(min_length=1)
    batch: int = Field(ge=1)
    precision: Precision
    score_floor: Share
    candidates_per_level: int = Field(ge=1)
    nms_iou: Share
    per_image: int = Field(ge=1)
    calibrate: bool
    mask_threshold: Share
    mask_margin_px: float = Field(ge=0)
    compile: bool

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if len(set(self.splits)) < len(self.splits):
            raise ValueError(f"splits = {list(self.splits)}: each split may stand only once")
        return self


class Evaluate(Section):
    iou: float = Field(gt=0, le=1)
    fp_rates: tuple[Positive, ...] = Field(min_length=1)
    size_edges_mm: tuple[Positive, ...]
    bootstrap: int = Field(ge=0)
    seed: int = Field(ge=0)
    operating_fp: Positive
    report_slices: int = Field(ge=0)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for name in ("fp_rates", "size_edges_mm"):
            values = getattr(self, name)
            if any(a >= b for a, b in itertools.pairwise(values)):
                raise ValueError(f"{name} = {list(values)}: must rise")
        return self


class Runtime(Section):
    workers: int = Field(ge=0)
    downloads: int = Field(ge=1, le=32)
    device: Literal["auto", "cpu", "cuda"]
    devices: int = Field(ge=1)
    nodes: int = Field(ge=1)
    cluster: str | None


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


def load_params(path: str | Path = "params.yaml") -> Params:
    """Read and check a parameter file.

    Raises:
        UserError: the file is missing, not UTF-8 text or not YAML, or a parameter is unknown, absent, of the wrong
            type or impossible; every offending parameter is named with its value and what is allowed.
    """
    try:
        values = YAML(typ="safe", pure=True).load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; copy one of presets/ to it") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text at byte {error.start}") from None
    except YAMLError as error:
        raise UserError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    try:
        return Params.model_validate(values)
    except ValidationError as error:
        lines = [_complaint(e) for e in error.errors()]
        raise UserError(f"{path}: " + "; ".join(lines)) from None


def _complaint(error: dict) -> str:
    """One offence in the user's words: full name, value, what is allowed."""
    name = ".".join(str(part) for part in error["loc"]) or "(the whole file)"
    if error["type"] == "extra_forbidden":
        return f"{name}: unknown parameter; remove it or correct its name"
    if error["type"] == "missing":
        return f"{name}: missing; see presets/phantom.yaml for all parameters"
    if error["type"] == "value_error":  # a rule that ties several parameters: it names the one to change itself
        return f"{name}.{error['ctx']['error']}"
    if error["loc"][:2] == ("dataset", "parts") and len(error["loc"]) == 3:
        return f'{name} = {error["input"]!r}: must be two digits in quotes, such as "01"'
    message = error["msg"]
    value = "" if isinstance(error["input"], dict) else f" = {error['input']!r}"
    return f"{name}{value}: {message[0].lower()}{message[1:]}"
