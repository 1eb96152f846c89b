"""The whole pipeline with as many patients and key slices as DeepLesion: what each stage takes, and what DVC adds.

    python benchmarks/scale.py                            # 56 parts of 82 patients: hours
    python benchmarks/scale.py --parts 14 56              # two sizes: what grows faster than the data
    python benchmarks/scale.py --parts 3 --patients 3     # a first look: minutes

DeepLesion has 56 parts, 4,427 patients and 32,120 key slices; 56 x 82 patients of about 7 key slices are 4,592 and
about 32,100. Slices are of 64 px, the network is the smallest and trains one epoch: what counts here are numbers, not
pixels. Everything runs in a clone of the last commit with a cache of its own. Memory is that of all processes together
(PSS, looked at every fifth of a second); what a stage's own processes don't take of its time is DVC's.
"""

import argparse
import contextlib
import itertools
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import psutil  # DVC needs it too
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[1]
EVERY_S = 0.2  # between looks at the processes
REPEATS = 3  # of DVC's quick commands; the median counts
SMALL = {
    "phantom": {"extra_test_patients": 0, "key_slices_per_patient": 7, "image_size": 64},
    "preprocess": {"image_size": 64},
    "network": {"channels": 8, "head_depth": 1, "head_channels": 8},
    "train": {"epochs": 1},
}


class Line(NamedTuple):
    """A line of the table; NaN: not measured."""

    seconds: float = math.nan
    dvc_s: float = math.nan  # of these seconds without any process of a stage
    memory_mb: float = math.nan  # at most
    written_mb: float = math.nan
    limit_s: float = math.nan  # of `dvc_s`, for 56 parts


class Clone:
    """A clone of the repository at `path` with the phantom of so many parts and patients; `scale.log` lies beside."""

    def __init__(self, path: Path, parts: int, patients: int):
        self.path, self.log = path, path.with_suffix(".log")
        self.environment = os.environ | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "LESIONPIPE_SCRATCH": str(path / "scratch"),
            "PYTHONPATH": str(path),
        }
        subprocess.run(["git", "clone", "--quiet", ROOT, path], check=True)
        (path / "dvc.lock").unlink(missing_ok=True)
        yaml, file = YAML(), path / "params.yaml"
        params = yaml.load(file.read_text(encoding="utf-8"))
        for section, values in SMALL.items():
            params[section].update(values)
        params["dataset"]["parts"] = [f"{part:02d}" for part in range(1, parts + 1)]
        params["phantom"]["patients_per_part"] = patients
        yaml.dump(params, file)
        for words in (["user.name", "scale"], ["user.email", "scale@localhost"]):
            subprocess.run(["git", "config", *words], cwd=path, check=True)

    def measured(self, *command: str) -> Line:
        """Run a command in the clone until it ends; a SystemExit with the end of the log where it fails."""
        start = before = time.perf_counter()
        stages_s = memory = 0.0
        with self.log.open("a") as log:
            process = psutil.Popen(command, cwd=self.path, env=self.environment, stdout=log, stderr=subprocess.STDOUT)
            while process.poll() is None:
                held, in_stage = look_at(process)
                now = time.perf_counter()
                stages_s, memory, before = stages_s + in_stage * (now - before), max(memory, held), now
                with contextlib.suppress(psutil.TimeoutExpired):
                    process.wait(EVERY_S)
        seconds = time.perf_counter() - start
        if process.returncode:
            raise SystemExit(f"{' '.join(command)} failed:\n{self.log.read_text(errors='replace')[-3000:]}")
        return Line(seconds, seconds - stages_s, memory / 1e6)

    def dvc(self, *words: str) -> Line:
        return self.measured(sys.executable, "-m", "dvc", *words)

    def written_mb(self, *patterns: str) -> float:
        """Size of all files that these patterns of paths match, folders with all that they hold."""
        found = [path for pattern in patterns for path in self.path.glob(pattern)]
        files = [inner for path in found for inner in (path.rglob("*") if path.is_dir() else [path])]
        return sum(file.stat().st_size for file in files if file.is_file()) / 1e6

    def commit(self) -> None:
        for words in (["add", "-A"], ["commit", "-qm", "As it ran"]):
            subprocess.run(["git", *words], cwd=self.path, check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", type=int, nargs="+", default=[56], help="up to 99, one number for each run")
    parser.add_argument("--patients", type=int, nargs="+", default=[82], help="of each part, at least 3, likewise")
    parser.add_argument("--folder", type=Path, help="where the clones go and stay (default: a temporary folder)")
    parser.add_argument("--probe", choices=("loader", "report"), help=argparse.SUPPRESS)  # measured in this process
    arguments = parser.parse_args()
    if arguments.probe:
        print(json.dumps(loader_times() if arguments.probe == "loader" else report_times()))
        return
    commit = subprocess.run(["git", "describe", "--always"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    print(f"commit {commit}, {platform.machine()}, {psutil.cpu_count()} cores, Python {platform.python_version()}")
    runs = []
    with tempfile.TemporaryDirectory(prefix="scale-") as temporary:
        folder = (arguments.folder or Path(temporary)).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        for parts, patients in itertools.product(arguments.parts, arguments.patients):
            print(f"\n{parts} parts of {patients} patients")
            runs.append(run(Clone(folder / f"{parts}x{patients}", parts, patients)))
    for smaller, larger in itertools.pairwise(runs):
        print_growth(smaller, larger)


def run(clone: Clone) -> tuple[int, dict[str, Line]]:
    """All stages and commands, each line printed as soon as it is known; the number of key slices, and the lines."""
    print(f"{'':38s} {'s':>9s} {'DVC, s':>9s} {'MB held':>9s} {'MB out':>9s} {'limit':>9s}", flush=True)
    lines: dict[str, Line] = {}

    def note(name: str, line: Line) -> None:
        lines[name] = line
        columns = " ".join(text_of(value, digits) for value, digits in zip(line, (1, 1, 0, 3, 0), strict=True))
        print(f"{name:38s} {columns}{'  missed' if line.dvc_s > line.limit_s else ''}", flush=True)

    for stage, patterns in outputs_of_stages(clone.path).items():
        line = clone.dvc("repro", "--single-item", stage)
        note(stage, line._replace(written_mb=clone.written_mb(*patterns)))
    note("dvc.lock", Line(written_mb=clone.written_mb("dvc.lock")))
    note("dvc repro, nothing to do", repeated(clone, "repro")._replace(limit_s=4))
    note("dvc status", repeated(clone, "status")._replace(limit_s=3))
    clone.commit()
    note("dvc exp run -S evaluate.iou=0.3", clone.dvc("exp", "run", "-S", "evaluate.iou=0.3")._replace(limit_s=15))
    note("dvc metrics diff", repeated(clone, "metrics", "diff")._replace(limit_s=5))
    for probe in ("loader", "report"):  # last, since what they write DVC would read again
        clone.environment["LESIONPIPE_SCRATCH"] = str(clone.path / "scratch" / probe)  # where no checksum is remembered
        whole = clone.measured(sys.executable, __file__, "--probe", probe)
        for name, seconds in json.loads(clone.log.read_text().splitlines()[-1]).items():
            note(f"{probe}: {name}", Line(seconds))
        written = clone.written_mb("report") if probe == "report" else math.nan
        note(f"{probe}: its whole process", Line(whole.seconds, memory_mb=whole.memory_mb, written_mb=written))
    key_slices = sum(table.read_bytes().count(b"\n") - 1 for table in clone.path.glob("data/key_slices/*.csv"))
    print(f"{key_slices} key slices; DVC's part of `exp run` is what `evaluate` doesn't take", flush=True)
    return key_slices, lines


def outputs_of_stages(repository: Path) -> dict[str, list[str]]:
    """Patterns of all that each stage writes, in the order of dvc.yaml."""
    stages = YAML(typ="safe").load((repository / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    written = {}
    for name, stage in stages.items():
        entries = [entry for kind in ("outs", "metrics", "plots") for entry in stage.get(kind, [])]
        paths = (entry if isinstance(entry, str) else next(iter(entry)) for entry in entries)
        written[name] = [path.replace("${item.part}", "*") for path in paths]
    return written


def repeated(clone: Clone, *words: str) -> Line:
    """The medians of a command of DVC that starts no stage."""
    lines = [clone.dvc(*words) for _ in range(REPEATS)]
    assert all(line.dvc_s == line.seconds for line in lines), f"dvc {' '.join(words)} ran a stage; see {clone.log}"
    return Line(*map(statistics.median, zip(*lines, strict=True)))


def look_at(process: psutil.Process) -> tuple[float, bool]:
    """Bytes that a process and its descendants hold together, and whether one of them is a stage."""
    held, in_stage, ended = 0.0, False, (psutil.Error, ProcessLookupError)
    with contextlib.suppress(*ended):
        for member in [process, *process.children(recursive=True)]:
            with contextlib.suppress(*ended):
                in_stage |= any(word.startswith("stages.") for word in member.cmdline())
                memory = member.memory_full_info()
                held += getattr(memory, "pss", memory.rss)
    return held, in_stage


def print_growth(smaller: tuple[int, dict[str, Line]], larger: tuple[int, dict[str, Line]]) -> None:
    """Time per key slice at two sizes, and by what factors all columns grew."""
    (few, before), (many, after) = smaller, larger
    data = many / few
    print(f"\n{few} and {many} key slices: times {data:.2f}; what grew by more than 1.1 times that is marked with !")
    print(f"{'':38s} {'ms/slice':>9s} {'ms/slice':>9s} {'s':>9s} {'DVC':>9s} {'MB held':>9s} {'MB out':>9s}")
    for name, old in before.items():
        new = after[name]
        factors = [b / a if a else math.nan for a, b in zip(old[:4], new[:4], strict=True)]
        values = [1000 * old.seconds / few, 1000 * new.seconds / many, *factors]
        marks = ["", "", *("!" if factor > 1.1 * data else "" for factor in factors)]
        columns = (text_of(value, 2, mark) for value, mark in zip(values, marks, strict=True))
        print(f"{name:38s} {' '.join(columns)}")


def text_of(value: float, digits: int, mark: str = "") -> str:
    """A column of a table; empty where nothing was measured."""
    return f"{'' if math.isnan(value) else f'{value:.{digits}f}'}{mark}".rjust(9)


def loader_times() -> dict[str, float]:
    """Seconds until the loader of the training gives its first batch, step by step."""
    start = time.perf_counter()
    from loading import batches

    from lesionpipe.params import load_params
    from lesionpipe.train.build import build_training

    params, times = load_params(), {"imports": time.perf_counter() - start}
    sections = params.preprocess, params.network, params.train, params.runtime
    for name in ("data opened, every file read", "data opened, checksums known"):
        start = time.perf_counter()
        training = build_training(params.dataset.parts, params.lesions.noisy, *sections)
        times[name] = time.perf_counter() - start
    start = time.perf_counter()
    next(batches(training, training.hardware.workers))
    return times | {"first batch after that": time.perf_counter() - start}


def report_times() -> dict[str, float]:
    """Seconds of the stage `evaluate` for the numbers and for the page."""
    from stages import evaluate as stage

    times = {}

    def timed(function):
        def call(*arguments):
            start = time.perf_counter()
            result = function(*arguments)
            times[function.__name__] = time.perf_counter() - start
            return result

        return call

    stage.evaluate_all, stage.write_report = timed(stage.evaluate_all), timed(stage.write_report)
    stage.main()
    return times


if __name__ == "__main__":
    main()
