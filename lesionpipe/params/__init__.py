"""Typed parameters: `params.yaml` becomes one frozen section per stage, and what is wrong is refused by its full name.

Each section has a file of its own with types, limits and the rules that tie several parameters together; this one only
assembles them. What a parameter means is said beside it in `params.yaml`.
"""

from pathlib import Path

from pydantic import ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from lesionpipe.core.errors import UserError
from lesionpipe.params.anchors import Anchors
from lesionpipe.params.dataset import Dataset
from lesionpipe.params.detect import Detect
from lesionpipe.params.download import Download
from lesionpipe.params.evaluate import Evaluate
from lesionpipe.params.lesions import Lesions
from lesionpipe.params.masks import Masks
from lesionpipe.params.network import Network
from lesionpipe.params.phantom import Phantom
from lesionpipe.params.preprocess import Preprocess
from lesionpipe.params.renamed import RENAMED, RENAMED_VALUES
from lesionpipe.params.runtime import Runtime
from lesionpipe.params.section import Section
from lesionpipe.params.train import Train


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
        raise UserError(f"{path}: no such file; `lesionpipe preset phantom` writes it") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text at byte {error.start}") from None
    except YAMLError as error:
        raise UserError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    try:
        return Params.model_validate(values)
    except ValidationError as error:
        raise UserError(f"{path}: " + "; ".join(_complaints(error.errors()))) from None


def _complaints(errors: list[dict]) -> list[str]:
    """All offences; a missing parameter whose old name is there is named once, with the old one."""
    answers = {word for e in errors if e["type"] == "extra_forbidden" for word in RENAMED.get(_name(e), "").split()}
    return [_complaint(e) for e in errors if e["type"] != "missing" or _name(e) not in answers]


def _name(error: dict) -> str:
    return ".".join(str(part) for part in error["loc"]) or "(the whole file)"


def _complaint(error: dict) -> str:
    """One offence in the user's words: full name, value, what is allowed."""
    name = _name(error)
    if name in RENAMED and error["type"] == "extra_forbidden":
        return f"{name}: {RENAMED[name]}"
    if error["type"] == "extra_forbidden":
        return f"{name}: unknown parameter; remove it or correct its name"
    if error["type"] == "missing":
        return f"{name}: missing; see presets/phantom.yaml for all parameters"
    if error["type"] == "value_error":  # a rule that ties several parameters: it names the one to change itself
        return f"{name}.{error['ctx']['error']}"
    if error["loc"][:2] == ("dataset", "parts") and len(error["loc"]) == 3:
        return f'{name} = {error["input"]!r}: must be two digits in quotes, such as "01"'
    value = "" if isinstance(error["input"], dict) else f" = {error['input']!r}"
    if isinstance(error["input"], str) and (name, error["input"]) in RENAMED_VALUES:
        return f"{name}{value}: {RENAMED_VALUES[name, error['input']]}"
    message = error["msg"]
    return f"{name}{value}: {message[0].lower()}{message[1:]}"
