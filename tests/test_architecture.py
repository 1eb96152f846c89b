"""The structure holds: order of the folders, no circles, short files, one name for one thing, and dvc.yaml lists what
can change a stage's result."""

import ast
import collections
import importlib
import subprocess

import pytest
from imports import PACKAGE, ROOT, closure, code_of, expanded, imported_files, parameters_of, shortest_list, shown
from ruamel.yaml import YAML

from lesionpipe.params import Params

MODULES = sorted(PACKAGE.rglob("*.py"))
SCRIPTS = sorted((ROOT / "stages").glob("[!_]*.py"))
PIPELINE = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())
STAGES = PIPELINE["stages"]
# A folder imports only from folders before it and from itself.
ORDER = (
    {"__init__", "core"},
    {"params"},
    {"data"},
    {"phantom", "download"},
    {"lesions"},
    {"preprocess"},
    {"masks"},
    {"mask_quality"},
    {"anchors"},
    {"detectors"},
    {"detect"},
    {"train"},
    {"evaluate"},
    {"commands"},
    {"cli"},
    {"__main__"},
)
LEVEL = {folder: level for level, folders in enumerate(ORDER) for folder in folders}
# What a stage reads from the parameters without being run again when it changes: how it fetches, where the data lies
# whose content the inventory holds already, and, in a stage of parts, the other parts.
UNTRACKED = {
    "download": {"dataset.parts", "download.retries", "download.timeout_s"},
    "lesions": {"download.retries", "download.timeout_s"},
    "preprocess": {"dataset.parts", "dataset.source", "dataset.path"},
    "masks": {"dataset.parts"},
}
# Names that mean the same wherever they stand.
COMMON_NAMES = {"main"}


def folder_of(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def test_a_module_imports_only_from_folders_before_its_own():
    for module in MODULES:
        for other in imported_files(module):
            here, there = folder_of(module), folder_of(other)
            assert here == there or LEVEL[there] < LEVEL[here], f"{shown(module)} imports {shown(other)}"


def test_only_its_stage_draws_the_phantom():
    for module in MODULES:
        if folder_of(module) != "phantom":
            assert not any(folder_of(other) == "phantom" for other in imported_files(module)), shown(module)


def test_no_module_imports_itself_in_a_circle():
    for module in MODULES:
        for other in imported_files(module):
            assert module not in closure(other), f"{shown(module)} <-> {shown(other)}"


@pytest.mark.parametrize("name", STAGES)
def test_the_code_under_deps_is_what_can_change_the_result(name):
    wanted, found = code_of(name), expanded(STAGES[name]["deps"])
    lines = "\n".join(f"    - {line}" for line in shortest_list(wanted))
    assert wanted == found, f"dvc.yaml, {name}: add {wanted - found}, remove {found - wanted}; the whole list:\n{lines}"


@pytest.mark.parametrize("name", STAGES)
def test_deps_are_as_short_as_they_can_be(name):
    """Each dependency costs time in every `dvc repro`, 56 times in the stages of parts."""
    code = [dependency for dependency in STAGES[name]["deps"] if dependency.startswith(("lesionpipe/", "stages/"))]
    assert sorted(code) == sorted(shortest_list(code_of(name)))


@pytest.mark.parametrize("name", STAGES)
def test_the_parameters_of_a_stage_are_those_that_it_uses(name):
    used = parameters_of(ROOT / "stages" / f"{name}.py")
    used = {n for n in used if n.split(".")[0] != "runtime"} - UNTRACKED.get(name, set())
    tracked = set(STAGES[name]["params"])
    for parameter in used:
        assert {parameter, parameter.split(".")[0]} & tracked, f"dvc.yaml, {name}: uses {parameter}, untracked"
    for parameter in tracked:
        needed = any(parameter == n or parameter.split(".")[0] == n or n.split(".")[0] == parameter for n in used)
        assert needed, f"dvc.yaml, {name}: tracks {parameter}, unused"


def test_no_parameter_has_a_name_that_dvcs_run_cache_overlooks():
    """It leaves out keys named so, at any depth, when it looks for an earlier run."""
    for name, section in Params.model_fields.items():
        assert not {"size", "nfiles"} & set(section.annotation.model_fields), name


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_has_a_description_and_a_script_of_its_name_in_its_own_checkout(name):
    assert STAGES[name]["desc"]
    assert STAGES[name]["cmd"].split(" ${")[0] == f"python -m stages.{name}"
    assert ("matrix" in STAGES[name]) == STAGES[name]["cmd"].endswith("${item.part}")


def test_every_script_belongs_to_a_stage():
    assert {p.stem for p in SCRIPTS} == set(STAGES)


def test_every_metric_and_plot_keeps_the_run_cache_and_stands_once():
    """A plain output with `cache: false` switches the run cache off; what the list at the end names again is drawn
    twice."""
    for name, stage in STAGES.items():
        for output in stage.get("outs", []):
            assert isinstance(output, str), f"{name}: {output}"
        for output in [*stage.get("metrics", []), *stage.get("plots", [])]:
            (properties,) = output.values()
            assert properties["cache"] is False, f"{name}: {output}"
    assert all("/" not in title for plot in PIPELINE["plots"] for title in plot)


def test_dvc_yaml_is_short_enough_to_be_read():
    text = (ROOT / "dvc.yaml").read_text()
    assert text.count("\n") <= 260
    assert max(map(len, text.splitlines())) <= 150


def test_files_and_functions_stay_short():
    for module in [*MODULES, *SCRIPTS]:
        text = module.read_text()
        assert text.count("\n") <= 300, f"{shown(module)} is too long"
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                length = node.end_lineno - node.lineno + 1
                assert length <= 45, f"{shown(module)}: {node.name} has {length} lines"


def test_every_module_says_what_it_owns():
    for module in [*MODULES, *SCRIPTS, *(ROOT / "benchmarks").glob("*.py")]:
        assert ast.get_docstring(ast.parse(module.read_text())), f"{shown(module)} has no docstring"


def test_what_benchmarks_import_from_the_package_is_there():
    """No other test starts them."""
    for script in (ROOT / "benchmarks").glob("*.py"):
        for node in ast.walk(ast.parse(script.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "lesionpipe":
                for name in (alias.name for alias in node.names):
                    there = hasattr(importlib.import_module(node.module), name) or is_module(f"{node.module}.{name}")
                    assert there, f"{shown(script)}: {node.module} has no {name}"


def is_module(name):
    return any(PACKAGE.parent.joinpath(*name.split(".")).with_suffix(suffix).exists() for suffix in ("", ".py"))


def test_one_name_is_one_thing_in_the_whole_package():
    """Public functions, classes and constants at the top of a module."""
    places = collections.defaultdict(set)
    for module in MODULES:
        for name in public_names(ast.parse(module.read_text())):
            places[name].add(shown(module))
    twice = {name: sorted(where) for name, where in places.items() if len(where) > 1 and name not in COMMON_NAMES}
    assert not twice, "\n".join(f"{name}: {', '.join(where)}" for name, where in sorted(twice.items()))


def public_names(tree):
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names = [node.name]
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = [n.id for target in targets for n in ast.walk(target) if isinstance(n, ast.Name)]
        else:
            names = []
        yield from (name for name in names if not name.startswith("_"))


def test_the_formatter_decides():
    """`# fmt: skip` is for tables of numbers alone, whose columns it would break."""
    words = ["git", "grep", "-n", "-E", "fmt: (skip|off)", "--", "*.py", ":!tests/test_architecture.py"]
    found = subprocess.run(words, cwd=ROOT, capture_output=True, text=True).stdout
    assert not found, found
