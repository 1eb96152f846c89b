"""`lesionpipe preset`: a whole params.yaml, with its comments, from a preset that holds what differs from it."""

import json
import subprocess
from pathlib import Path
from typing import Annotated

import typer
from dvc.utils.flatten import flatten
from dvc.utils.serialize import dumps_yaml
from ruamel.yaml import YAML, CommentedMap, YAMLError

from lesionpipe.core.errors import UserError
from lesionpipe.core.files import write_text
from lesionpipe.params import load_params

PRESETS = Path("presets")
DEFAULT = "phantom"  # holds every parameter with its comment
TARGET = Path("params.yaml")
KEPT = "runtime"  # the section about this computer
Settings = dict[str, object]  # full name of a parameter -> value


def preset(
    name: Annotated[str | None, typer.Argument(help="Name of the preset; none: lists them.")] = None,
    show: Annotated[bool, typer.Option("--show", help="Only print what would change; write nothing.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Also over changes that Git does not have.")] = False,
) -> None:
    """Write a preset to params.yaml and print what changes by it; the section `runtime` stays as it is."""
    if name is None:
        print("\n".join(preset_names()))
        return
    present = _yaml_of(TARGET) if TARGET.exists() else CommentedMap()
    wanted = whole_preset(name, present)
    old, new = flatten(present), flatten(wanted)
    lines = [f"{parameter}: {_shown(old, parameter)} -> {_shown(new, parameter)}" for parameter in differing(old, new)]
    print("\n".join(lines) or f"{TARGET} equals preset {name}")
    if lines and not show:
        if present and not force:
            _refuse_to_lose_changes(present)
        # as DVC writes it; beside the presets the schema lies one folder higher
        write_text(TARGET, dumps_yaml(wanted).replace("$schema=", f"$schema={PRESETS}/", 1))
        load_params(TARGET)
        print(f"{TARGET} now holds preset {name}")


def preset_names() -> list[str]:
    """The presets of this checkout, the default first; a UserError where there are none."""
    names = sorted((path.stem for path in PRESETS.glob("*.yaml")), key=lambda name: (name != DEFAULT, name))
    if DEFAULT not in names:
        raise UserError(f"{PRESETS.absolute()}: no presets there; change to the folder that holds dvc.yaml")
    return names


def whole_preset(name: str, present: CommentedMap | None = None) -> CommentedMap:
    """A preset with all parameters and their comments, and the `runtime` of `present`; a UserError for other names."""
    if name not in preset_names():
        raise UserError(f"no preset {name!r}; there are {', '.join(preset_names())}")
    path = PRESETS / f"{name}.yaml"
    whole = _yaml_of(PRESETS / f"{DEFAULT}.yaml")
    known = flatten(whole)
    kept = {n: v for n, v in flatten(present or {}).items() if n in known and n.startswith(f"{KEPT}.")}
    for full_name, value in (flatten(_yaml_of(path)) | kept).items():
        if full_name not in known:
            raise UserError(f"{path}: {full_name}: unknown parameter; {DEFAULT}.yaml holds them all")
        if value != known[full_name]:
            section, key = full_name.split(".")
            whole[section][key] = _plain(value)
    return whole


def differing(old: Settings, new: Settings) -> list[str]:
    """Names of the parameters that differ or that one side lacks, in the order of `new`."""
    return [name for name in {**new, **old} if old.get(name, ...) != new.get(name, ...)]


def _shown(settings: Settings, name: str) -> str:
    return json.dumps(settings[name], ensure_ascii=False, default=str) if name in settings else ""


def _refuse_to_lose_changes(present: CommentedMap) -> None:
    """Raise where params.yaml holds what neither a preset nor the last commit holds."""
    if any(flatten(present) == flatten(whole_preset(name, present)) for name in preset_names()):
        return
    words = ["git", "diff", "--quiet", "HEAD", "--", TARGET]
    if subprocess.run(words, check=False, capture_output=True).returncode != 0:
        raise UserError(f"{TARGET} holds changes that neither a preset nor Git has; commit it, or add --force")


def _yaml_of(path: Path) -> CommentedMap:
    """A parameter file with its comments."""
    try:
        content = YAML().load(path.read_text(encoding="utf-8"))
    except (YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, CommentedMap):
        raise UserError(f"{path}: not a parameter file, which has sections such as `train:`")
    return content


def _plain(value: object) -> object:
    """A list without the layout that it has in its own file."""
    return [_plain(item) for item in value] if isinstance(value, list) else value
