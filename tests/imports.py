"""What imports what, read from the source text without running it, and the dependencies that follow for dvc.yaml."""

import ast
from functools import cache
from pathlib import Path

from lesionpipe.params import Params

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "lesionpipe"
DATA_FILES = (".tsv", ".csv", ".json", ".html", ".css", ".js")
# Code that changes no result, which DVC doesn't see; a folder stands for all below it.
NEUTRAL = tuple(line for line in (ROOT / ".dvcignore").read_text().splitlines() if line.startswith("lesionpipe/"))


def shown(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@cache
def module_file(name: str) -> Path | None:
    """File of a dotted module of the package, or None where there is none."""
    base = ROOT / Path(*name.split("."))
    for candidate in (base.with_suffix(".py"), base / "__init__.py"):
        if candidate.is_file():
            return candidate
    return None


@cache
def imported_files(path: Path) -> frozenset[Path]:
    """Files of the package that a file imports itself, also inside functions; packages without code don't count."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    own = {n for n in names if n.split(".")[0] == "lesionpipe"}
    packages = {".".join(n.split(".")[:k]) for n in own for k in range(1, len(n.split(".")))}
    files = {module_file(n) for n in own | packages}
    return frozenset(f for f in files if f and f != path and holds_code(f) and not _is_own_package(f, path))


@cache
def holds_code(path: Path) -> bool:
    """False for the `__init__.py` of a package that only says what the package owns."""
    return path.name != "__init__.py" or len(ast.parse(path.read_text()).body) > 1


def _is_own_package(package: Path, path: Path) -> bool:
    return package.name == "__init__.py" and package.parent in path.parents


@cache
def closure(path: Path) -> frozenset[Path]:
    """All files of the package that running `path` may import."""
    seen, todo = set(), [path]
    while todo:
        for found in imported_files(todo.pop()) - seen:
            seen.add(found)
            todo.append(found)
    return frozenset(seen - {path})


def parameters_of(path: Path) -> set[str]:
    """The parameters that a script reads from `params`: `section.key`, or `section` where it hands that on as a whole.

    Names given to a section (``settings = params.preprocess``) are followed.
    """
    tree, sections, renamings = ast.parse(path.read_text()), {"params": ""}, set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign):
            for name, value in zip(_items(node.targets[0]), _items(node.value), strict=False):
                if (words := ast.unparse(value).split("."))[0] == "params" and len(words) == 2:
                    sections[ast.unparse(name)] = words[1]
                    renamings.add(value)
    within = {node.value for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    found = set()
    for node in {n for n in ast.walk(tree) if isinstance(n, ast.Name | ast.Attribute)} - within - renamings:
        first, *rest = ast.unparse(node).split(".")
        if first in sections and isinstance(node.ctx, ast.Load):
            found.add(_parameter([part for part in (sections[first], *rest) if part]))
    return found - {""}


def _parameter(words: list[str]) -> str:
    """`section.key`, or `section` where the second word is no parameter but a method."""
    known = Params.model_fields[words[0]].annotation.model_fields if words else {}
    return ".".join(words[:2] if len(words) > 1 and words[1] in known else words[:1])


def _items(node: ast.expr) -> list[ast.expr]:
    return node.elts if isinstance(node, ast.Tuple) else [node]


def is_neutral(path: Path) -> bool:
    return shown(path).startswith(NEUTRAL)


def code_of(stage: str) -> set[str]:
    """The script of a stage, the modules that can change its result, and the data files that they name."""
    script = ROOT / "stages" / f"{stage}.py"
    code = {f for f in closure(script) | {script} if not is_neutral(f)}
    near = {(module, f) for module in code for f in module.parent.iterdir() if f.suffix in DATA_FILES}
    beside = {f for module, f in near if f'"{f.name}"' in module.read_text()}
    return {shown(f) for f in code | beside}


@cache
def files_below(folder: Path) -> frozenset[str]:
    """All files below a folder that can change a result, for which a dependency on the folder stands."""
    files = (f for f in folder.rglob("*") if f.suffix in DATA_FILES or (f.suffix == ".py" and holds_code(f)))
    return frozenset(shown(f) for f in files if not is_neutral(f))


def expanded(dependencies: list[str]) -> set[str]:
    """Code dependencies with the files of each folder in place of the folder."""
    found = set()
    for dependency in filter(is_code, dependencies):
        path = ROOT / dependency
        found |= files_below(path) if path.is_dir() else {dependency}
    return found


def shortest_list(code: set[str]) -> list[str]:
    """The same files with a folder in place of its files wherever all of them are there."""
    folders = sorted((f for f in PACKAGE.rglob("*") if f.is_dir() and files_below(f)), key=lambda f: len(f.parts))
    left, found = set(code), []
    for folder in folders:
        if files_below(folder) <= left:
            found.append(shown(folder))
            left -= files_below(folder)
    return sorted(left | set(found), key=lambda name: (not name.startswith("stages/"), name))


def is_code(dependency: str) -> bool:
    return dependency.startswith(("lesionpipe/", "stages/"))
