"""The house stands: floors, no circles, short files, and a dvc.yaml that knows the code behind each stage."""

import ast
from pathlib import Path

import pytest
from imports import ROOT, attributes_of, closure, code_of, imported_files, is_code
from ruamel.yaml import YAML

PACKAGE = ROOT / "lesionpipe"
MODULES = sorted(PACKAGE.rglob("*.py"))
STAGES = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())["stages"]
FLOORS = {
    "ground": {"errors", "files", "progress", "boxes", "params", "parallel", "groups", "__init__"},
    "words": {"deeplesion", "weak_labels", "anchors"},
    "ideas": {"detector"},
    "running": {"training", "evaluation"},
    "doors": {"commands", "cli"},
}
LEVEL = {room: level for level, rooms in enumerate(FLOORS.values()) for room in rooms}


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def test_a_module_imports_only_from_floors_below_and_from_its_own_room():
    for module in MODULES:
        for other in imported_files(module):
            here, there = room(module), room(other)
            same = here == there or LEVEL[here] == LEVEL[there] in (0, 4)
            assert same or LEVEL[there] < LEVEL[here], f"{module.relative_to(ROOT)} imports {other.relative_to(ROOT)}"


def test_no_module_imports_itself_in_a_circle():
    for module in MODULES:
        for other in imported_files(module):
            assert module not in closure(other), f"{module.relative_to(ROOT)} <-> {other.relative_to(ROOT)}"


@pytest.mark.parametrize("name", STAGES)
def test_deps_of_a_stage_are_exactly_the_code_that_it_imports(name):
    wanted, found = set(code_of(name)), {d for d in STAGES[name]["deps"] if is_code(d)}
    assert wanted == found, f"dvc.yaml, stage {name}: missing {wanted - found}, stale {found - wanted}; run `make deps`"


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_tracks_exactly_the_parameters_that_it_uses(name):
    used = attributes_of(ROOT / "stages" / f"{name}.py", "params") - {"runtime"}
    tracked = {p.split(".")[0] for p in STAGES[name]["params"]}
    assert used == tracked, f"dvc.yaml, stage {name}: uses {sorted(used)}, tracks {sorted(tracked)}"


@pytest.mark.parametrize("name", STAGES)
def test_every_stage_has_a_description_a_doorway_and_is_run_by_it(name):
    assert STAGES[name]["desc"]
    assert STAGES[name]["cmd"].startswith(f"python stages/{name}.py")


def test_every_doorway_belongs_to_a_stage():
    assert {p.stem for p in (ROOT / "stages").glob("*.py")} == set(STAGES)


def test_files_and_functions_stay_short():
    for module in [*MODULES, *(ROOT / "stages").glob("*.py")]:
        text = module.read_text()
        assert text.count("\n") <= 300, f"{module.relative_to(ROOT)} is too long"
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                length = node.end_lineno - node.lineno + 1
                assert length <= 45, f"{module.relative_to(ROOT)}: {node.name} has {length} lines"


def test_every_module_says_what_it_owns():
    for module in [*MODULES, *(ROOT / "stages").glob("*.py"), *(ROOT / "benchmarks").glob("*.py")]:
        assert ast.get_docstring(ast.parse(module.read_text())), f"{module.relative_to(ROOT)} has no docstring"
