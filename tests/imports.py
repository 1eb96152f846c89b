"""What imports what, read from the source text without running it, and the dependencies that follow for dvc.yaml."""

import ast
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "lesionpipe"
DATA_FILES = (".tsv", ".csv", ".json", ".html", ".css", ".js")
# Code that changes no result: messages, progress, how work is spread and files are moved, types of parameters, transfers
# and resuming. A folder stands for all below it.
NEUTRAL = (
    "lesionpipe/core/errors.py",
    "lesionpipe/core/files.py",
    "lesionpipe/core/hashing.py",
    "lesionpipe/core/parallel.py",
    "lesionpipe/core/progress.py",
    "lesionpipe/core/scratch.py",
    "lesionpipe/params/",
    "lesionpipe/download/http_client.py",
    "lesionpipe/download/queue.py",
    "lesionpipe/download/transfer.py",
    "lesionpipe/download/verification.py",
    "lesionpipe/train/state.py",
)


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


def attributes_of(path: Path, name: str) -> set[str]:
    """Names `x` or `x.y` of all `name.x` and `name.x.y` in a file, the longer where there is one."""
    tree, found = ast.parse(path.read_text()), set()
    within = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            dotted = ast.unparse(node).split(".")
            longest = len(dotted) == 3 or id(node) not in within
            if dotted[0] == name and len(dotted) in (2, 3) and longest:
                found.add(".".join(dotted[1:]))
    return found


def is_neutral(path: Path) -> bool:
    return shown(path).startswith(NEUTRAL)


def code_of(stage: str) -> set[str]:
    """A stage's script, the modules that it may import and that can change its result, and data files that they name."""
    script = ROOT / "stages" / f"{stage}.py"
    code = {f for f in closure(script) | {script} if not is_neutral(f)}
    near = {(module, f) for module in code for f in module.parent.iterdir() if f.suffix in DATA_FILES}
    beside = {f for module, f in near if f'"{f.name}"' in module.read_text()}
    return {shown(f) for f in code | beside}


@cache
def files_below(folder: Path) -> frozenset[str]:
    """All files with code or data below a folder, which a dependency on the folder stands for."""
    files = (f for f in folder.rglob("*") if f.suffix in DATA_FILES or (f.suffix == ".py" and holds_code(f)))
    return frozenset(shown(f) for f in files)


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
