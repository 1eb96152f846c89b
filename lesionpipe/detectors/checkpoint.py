"""`data/model.safetensors`: a trained detector in one file, with all that its use needs; equal weights, equal bytes.

The file holds the weights as tensors, and in its header, as text: format, version, the parameters of the training and
the anchors as JSON, and operating points (false positives per image -> score threshold) as JSON. Any safetensors reader
opens it, and nothing in it can run code.
"""

import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lesionpipe.anchors.grid import AnchorSet
from lesionpipe.core.errors import UserError
from lesionpipe.core.tensor_file import Unreadable, read_safetensors, save_safetensors
from lesionpipe.detectors.build import build_detector
from lesionpipe.detectors.interface import Detector
from lesionpipe.params import Network, Preprocess

MODEL = Path("data/model.safetensors")
FORMAT = "lesionpipe detector"
VERSION = "4"
HEADER = ("params", "anchors", "operating_points")


@dataclass(frozen=True)
class Model:
    """A detector ready for use, in eval mode on its device, and what must be known to feed and read it."""

    detector: Detector
    anchors: AnchorSet
    slices: int  # of the images that it was trained on
    image_size: int  # their side, px
    hu: tuple[int, int]  # the range that they were clipped to
    params: dict[str, Any]  # sections of the params.yaml of the training, at least preprocess and network
    operating_points: dict[str, float] = field(default_factory=dict)  # false positives per image -> score threshold


def save_model(
    path: str | Path,
    detector: Detector,
    anchors: AnchorSet,
    params: dict[str, Any],
    operating_points: Mapping[str, float] | None = None,
) -> None:
    """Write a model atomically; `params` as plain values (`Params.model_dump(mode="json")`), the rest as in `Model`."""
    header = {
        "format": FORMAT,
        "version": VERSION,
        "params": json.dumps(params, sort_keys=True),
        "anchors": json.dumps(anchors.to_dict(), sort_keys=True),
        "operating_points": json.dumps(dict(operating_points or {}), sort_keys=True),
    }
    save_safetensors(path, detector.state_dict(), header)


def load_model(path: str | Path = MODEL, device: str | torch.device = "cpu") -> Model:
    """Read a model and rebuild its detector on `device`, in eval mode.

    Raises:
        UserError: the file is missing, damaged, not a lesionpipe model or of another version, its parts don't go
            together, or its weights aren't finite numbers.
    """
    weights, header = _read(path)
    try:
        params = json.loads(header["params"])
        anchors = AnchorSet.from_dict(json.loads(header["anchors"]))
        points = {str(name): float(value) for name, value in json.loads(header["operating_points"]).items()}
        preprocess = Preprocess.model_validate(params["preprocess"])
        # the weights come from this file: nothing is to be fetched again
        network = Network.model_validate({**params["network"], "weights": None})
        detector = build_detector(network, preprocess, anchors)
        detector.load_state_dict(weights)
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, UserError) as error:
        reason = f"no '{error.args[0]}'" if isinstance(error, KeyError) else " ".join(str(error).split())[:200]
        raise UserError(f"{path}: its weights and header don't go together ({reason}); train again") from None
    of_images = preprocess.slices, preprocess.image_size, preprocess.hu
    return Model(detector.to(device).eval(), anchors, *of_images, params, points)


def _read(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Weights, all of them finite, and the whole header."""
    try:
        weights, header = read_safetensors(path)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; train a model first (dvc repro train)") from None
    except Unreadable as reason:
        if zipfile.is_zipfile(path):
            raise UserError(
                f"{path}: a file of torch, such as the model.pt of earlier versions; models are .safetensors files "
                "now: train again, or use the release of lesionpipe that wrote it"
            ) from None
        raise UserError(f"{path}: damaged or not a model ({reason}); train again or fetch the file anew") from None
    if header.get("format") != FORMAT:
        raise UserError(f"{path}: not a lesionpipe model; give the {MODEL.name} of the stage 'train'")
    if header.get("version") != VERSION:
        raise UserError(
            f"{path}: format version {header.get('version')}, this program reads {VERSION}; "
            "train again or use the release of lesionpipe that wrote it"
        )
    if missing := [name for name in HEADER if name not in header]:
        raise UserError(f"{path}: damaged: its header has no '{missing[0]}'; train again")
    for name, value in weights.items():
        if not torch.isfinite(value).all():
            raise UserError(f"{path}: weights '{name}' are not finite numbers; lower train.learning_rate, train again")
    return weights, header
