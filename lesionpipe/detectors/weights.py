"""Pretrained weights of a backbone (`network.weights`): found, read and filled in, or refused in one line.

Files lie in data/inputs/weights, where DVC tracks their contents: weights replaced under the same name retrain. They
are state dicts saved by torch or safetensors files; neither can run code when it is read.
"""

from collections.abc import Mapping
from pathlib import Path
from urllib.error import URLError

import torch
from torch import Tensor, nn
from torchvision import models

from lesionpipe.core.errors import UserError
from lesionpipe.core.tensor_file import Unreadable, load_tensors, read_safetensors

WEIGHTS_FOLDER = Path("data/inputs/weights")
IMAGENET = "imagenet"


def weights_file(weights: str | None) -> Path | None:
    """The file that `network.weights` names, or None where it names none (null, imagenet).

    Raises:
        UserError: it lies outside of data/inputs/weights (a link there may point anywhere), or doesn't exist.
    """
    if weights in (None, IMAGENET):
        return None
    path, folder = Path(weights), WEIGHTS_FOLDER.absolute()
    named_below = ".." not in path.parts and path.absolute().is_relative_to(folder)
    if not named_below and not path.parent.resolve().is_relative_to(folder.resolve()):
        raise UserError(
            f"network.weights = {weights}: lies outside of {WEIGHTS_FOLDER}, where DVC would not see that its content "
            f"changes; copy or link it there and set network.weights to {WEIGHTS_FOLDER / path.resolve().name}"
        )
    if not path.is_file():
        raise UserError(
            f"network.weights: {weights}: no such file; give a state dict in {WEIGHTS_FOLDER}, imagenet or null"
        )
    return path


def load_pretrained(body: nn.Module, name: str, weights: str | None) -> None:
    """Fill the backbone `name`, such as torchvision builds it, from ImageNet, from a file, or not at all (None).

    Entries that a detector has no use for (the classifier's) are ignored.

    Raises:
        UserError: the weights can't be fetched or read, or an entry is missing or of another shape.
    """
    if weights is None:
        return
    state, wanted = _imagenet_weights(name) if weights == IMAGENET else _file_weights(weights), body.state_dict()
    for key, value in wanted.items():
        if key not in state and not key.endswith("num_batches_tracked"):
            raise UserError(f"network.weights: {weights}: lacks '{key}'; are these weights of another backbone?")
        if key in state and state[key].shape != value.shape:
            shapes = f"{tuple(state[key].shape)} instead of {tuple(value.shape)}"
            raise UserError(f"network.weights: {weights}: '{key}' is {shapes}; are these weights of another backbone?")
    body.load_state_dict({key: state[key] for key in wanted if key in state}, strict=False)


def _file_weights(weights: str) -> Mapping[str, Tensor]:
    try:
        state = read_safetensors(weights)[0] if weights.endswith(".safetensors") else load_tensors(weights)
        if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
            raise Unreadable("no mapping of names to tensors")
    except (FileNotFoundError, Unreadable) as reason:
        raise UserError(f"network.weights: {weights}: not a state dict of torch or safetensors ({reason})") from None
    return state


def _imagenet_weights(name: str) -> Mapping[str, Tensor]:
    if name == "small":
        raise UserError("network.weights = imagenet: the backbone 'small' has none; set network.weights to null")
    source = models.get_model_weights(name).DEFAULT
    try:
        return source.get_state_dict(progress=False, check_hash=True)
    except (URLError, OSError, RuntimeError) as error:
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        raise UserError(
            f"network.weights = imagenet: can't fetch {source.url} ({error}); put that file into {folder}, "
            f"or into {WEIGHTS_FOLDER} and give its path as network.weights, or set network.weights to null to train "
            "from scratch"
        ) from None
