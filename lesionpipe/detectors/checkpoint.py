"""`model.pt`: a trained detector in one file, with all that its use needs; equal weights give equal bytes.

It holds the weights, the parameters (sections of `params.yaml`), the anchors and a version.
It is read with `weights_only=True`, so a foreign file can't run code.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from lesionpipe.anchors.grid import AnchorSet
from lesionpipe.core.errors import UserError
from lesionpipe.core.tensor_file import Unreadable, load_tensors, save_tensors
from lesionpipe.detectors.retinanet.network import Network, build_network
from lesionpipe.params import Network as NetworkParams

FORMAT = "lesionpipe detector"
VERSION = 2
PARTS = {"format": str, "version": int, "params": str, "anchors": str, "weights": dict}


@dataclass(frozen=True)
class Model:
    """A detector ready for use: the network in eval mode on its device, and what must be known to feed and read it."""

    network: Network
    anchors: AnchorSet
    params: dict[str, Any]  # sections of the params.yaml of the training: preprocess, network, train

    @property
    def preprocess(self) -> dict[str, Any]:
        """The section `preprocess`: size, slices, spacing_mm, hu."""
        return self.params["preprocess"]


def save_model(path: str | Path, network: Network, anchor_set: AnchorSet, params: dict[str, Any]) -> None:
    """Write `model.pt` atomically.

    Args:
        path: of the file.
        network: trained, on any device.
        anchor_set: the anchors, in px of the stored slice.
        params: at least the sections `network` and `preprocess`, as plain values (`Params.model_dump(mode="json")`).
    """
    content = {
        "format": FORMAT,
        "version": VERSION,
        "params": json.dumps(params, sort_keys=True),
        "anchors": json.dumps(anchor_set.to_dict(), sort_keys=True),
        # contiguous copies: memory format and device leave no trace in the bytes
        "weights": {
            name: value.detach().cpu().contiguous().clone(memory_format=torch.contiguous_format)
            for name, value in network.state_dict().items()
        },
    }
    save_tensors(path, content)


def load_model(path: str | Path, device: str | torch.device = "cpu") -> Model:
    """Read `model.pt` and rebuild the detector on `device`, in eval mode.

    Raises:
        UserError: the file is missing, damaged, not a lesionpipe model, or of another version.
    """
    content = _read(path)
    try:
        params, anchors = json.loads(content["params"]), AnchorSet.from_dict(json.loads(content["anchors"]))
        # the weights come from this file: nothing is to be fetched again
        settings = NetworkParams.model_validate({**params["network"], "weights": None})
        network = build_network(settings, params["preprocess"]["slices"], anchors.per_cell)
        network.load_state_dict(content["weights"])
    except (KeyError, TypeError, ValueError, ValidationError, RuntimeError, UserError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path}: its weights and parameters don't fit together ({reason}); train again") from None
    return Model(network.to(device).eval(), anchors, params)


def _read(path: str | Path) -> dict[str, Any]:
    """The file's content, checked to be ours."""
    try:
        content = load_tensors(path)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; train a model first (dvc repro train)") from None
    except Unreadable as reason:
        raise UserError(f"{path}: damaged or not a model ({reason}); train again or fetch the file anew") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UserError(f"{path}: not a lesionpipe model; give the model.pt of the stage 'train'")
    if content.get("version") != VERSION:
        raise UserError(
            f"{path}: format version {content.get('version')}, this program reads {VERSION}; "
            "train again or use the release of lesionpipe that wrote it"
        )
    for name, kind in PARTS.items():
        if not isinstance(content.get(name), kind):
            raise UserError(f"{path}: damaged: part '{name}' is missing or of the wrong type; train again")
    return content
