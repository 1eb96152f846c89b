"""What imports what, read from the source text without running it."""

import ast
from functools import cache
from pathlib import Path

from ruamel.yaml import YAML

ROOT = Path(__file__).parents[1]


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
    return frozenset(f for f in files if f and f != path and _holds_code(f) and not _is_own_package(f, path))


def _holds_code(path: Path) -> bool:
    return path.name != "__init__.py" or len(ast.parse(path.read_text()).body) > 1


def _is_own_package(package: Path, path: Path) -> bool:
    return package.name == "__init__.py" and package.parent in path.parents


def closure(path: Path) -> set[Path]:
    """All files of the package that running `path` may import."""
    seen, todo = set(), [path]
    while todo:
        for found in imported_files(todo.pop()) - seen:
            seen.add(found)
            todo.append(found)
    return seen - {path}


def attributes_of(path: Path, name: str) -> set[str]:
    """Names `x` of all `name.x` in a file."""
    nodes = ast.walk(ast.parse(path.read_text()))
    return {
        n.attr for n in nodes if isinstance(n, ast.Attribute) and isinstance(n.value, ast.Name) and n.value.id == name
    }


DATA_FILES = ("*.tsv", "*.html", "*.css", "*.js")


def code_of(stage: str) -> list[str]:
    """Sorted paths of the doorway of a stage, the modules that it may import, and the data files that those name."""
    script = ROOT / "stages" / f"{stage}.py"
    code = closure(script) | {script}
    near = {(module, f) for module in code for pattern in DATA_FILES for f in module.parent.glob(pattern)}
    beside = {f for module, f in near if f'"{f.name}"' in module.read_text()}
    return sorted(str(f.relative_to(ROOT)) for f in code | beside)


def is_code(dependency: str) -> bool:
    return dependency.startswith(("lesionpipe/", "stages/"))


def renew_deps() -> None:
    """Rewrite the code dependencies in dvc.yaml, keeping all else."""
    yaml = YAML()
    yaml.width = 120
    path = ROOT / "dvc.yaml"
    pipeline = yaml.load(path.read_text())
    for name, stage in pipeline["stages"].items():
        stage["deps"] = code_of(name) + [d for d in stage["deps"] if not is_code(d)]
    yaml.dump(pipeline, path)


if __name__ == "__main__":
    renew_deps()
