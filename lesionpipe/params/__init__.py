"""Typed parameters: `params.yaml` becomes one frozen section per stage; what is wrong is refused by its full name."""

import json
from pathlib import Path

from pydantic import ValidationError
from ruamel.yaml import YAML, YAMLError

from lesionpipe.core.errors import UserError
from lesionpipe.params.sections import Anchors, Detect, Masks, Network, Params, Preprocess, Runtime, Train

__all__ = [
    "Anchors",
    "Detect",
    "Masks",
    "Network",
    "Params",
    "Preprocess",
    "Runtime",
    "Train",
    "check_params",
    "load_params",
]

# former name, or name = value -> what to write instead
RENAMED: dict[str, str] = json.loads(Path(__file__).with_name("renamed.json").read_text(encoding="utf-8"))


def load_params(path: str | Path = "params.yaml") -> Params:
    """Read and check a parameter file.

    A UserError where it is missing, not UTF-8 text or not YAML, or where a parameter is unknown, absent, of the wrong
    type or impossible: every offending one is named with its value and what is allowed.
    """
    try:
        values = YAML(typ="safe", pure=True).load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; `lesionpipe preset phantom` writes it") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text at byte {error.start}") from None
    except YAMLError as error:
        raise UserError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    return check_params(values, path)


def check_params(values: object, source: str | Path) -> Params:
    """Parameters from what YAML holds, by section; a UserError as in `load_params`, which begins with `source`."""
    try:
        return Params.model_validate(values)
    except ValidationError as error:
        raise UserError(f"{source}: " + "; ".join(_complaints(error.errors()))) from None


def _complaints(errors: list[dict]) -> list[str]:
    """All offences; a missing parameter whose old name is there is named once, with the old one."""
    answers = {word for error in errors for word in RENAMED.get(_name(error), "").split()}
    return [_complaint(error) for error in errors if error["type"] != "missing" or _name(error) not in answers]


def _name(error: dict) -> str:
    return ".".join(str(part) for part in error["loc"]) or "(the whole file)"


def _complaint(error: dict) -> str:
    """One offence in the user's words: full name, value, what is allowed."""
    name, value, message = _name(error), error["input"], error["msg"]
    if error["type"] == "extra_forbidden":
        return f"{name}: {RENAMED.get(name, 'unknown parameter; remove it or correct its name')}"
    if error["type"] == "missing":
        return f"{name}: missing; see presets/phantom.yaml for all parameters"
    if error["type"] == "value_error":
        answer = error["ctx"]["error"]
        if not error["loc"]:  # it ties sections together, and names the parameter itself
            return str(answer)
    elif name.startswith("dataset.parts."):
        answer = 'must be two digits in quotes, such as "01"'
    else:
        answer = RENAMED.get(f"{name} = {value}") or message[0].lower() + message[1:]
    shown = "" if isinstance(value, dict) else f" = {value!r}"
    return f"{name}{shown}: {answer}"
