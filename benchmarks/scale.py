"""The whole pipeline with as many parts, patients and key slices as DeepLesion: what each stage takes, what DVC adds.

    taskset -c 0 python benchmarks/scale.py               # 56 parts of 82 patients, on one core
    python benchmarks/scale.py --parts 7 14 28            # three sizes: what grows faster than the data
    python benchmarks/scale.py --parts 3 --patients 3     # a first look: minutes

DeepLesion has 56 parts, 4,427 patients, 32,120 key slices and 32,735 lesions; here they are 4,592, 32,340 and 36,218.
What counts are numbers, not pixels: slices are of 64 px, GrabCut sees narrow crops once, the network is the smallest
and trains one epoch. `--drawn` parts are drawn, the others are copies (`many_parts.py`). Everything runs in a clone
of the last commit with a cache of its own. CPU is user and system time of all processes together, which other
programs disturb less than the clock; what stages don't take of it is DVC's. Memory is that of all processes together
(PSS, looked at twice a second).
"""

import argparse
import contextlib
import itertools
import json
import math
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import psutil  # DVC needs it too
from ruamel.yaml import YAML

from lesionpipe.core.parallel import cores

ROOT = Path(__file__).parents[1]
EVERY_S = 0.5  # between looks at the processes
REPEATS = 3  # of DVC's quick commands; the median counts
SMALL = {
    "phantom": {"extra_test_patients": 0, "key_slices_per_patient": 7, "image_size": 64},
    "preprocess": {"image_size": 64},
    "masks": {"crop_margin": 0.5, "iterations": 1},
    "network": {"channels": 8, "head_depth": 1, "head_channels": 8},
    "train": {"epochs": 1},
}


class Line(NamedTuple):
    """A line of the table; NaN: not measured."""

    seconds: float = math.nan
    cpu_s: float = math.nan
    dvc_s: float = math.nan  # of `cpu_s`
    memory_mb: float = math.nan  # at most
    written_mb: float = math.nan
    limit_s: float = math.nan  # of `dvc_s`, for 56 parts


class Clone:
    """A clone of the repository at `path` with the phantom of so many parts and patients; `scale.log` lies beside."""

    def __init__(self, path: Path, parts: int, patients: int, drawn: int):
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
        pipeline, copying = path / "dvc.yaml", f"python {Path(__file__).with_name('many_parts.py')} {drawn}"
        pipeline.write_text(pipeline.read_text(encoding="utf-8").replace("python -m stages.phantom", copying))
        for words in (["user.name", "scale"], ["user.email", "scale@localhost"]):
            subprocess.run(["git", "config", *words], cwd=path, check=True)

    def measured(self, *command: str) -> Line:
        """Run a command in the clone until it ends; a SystemExit with the end of the log where it fails."""
        start, before, of_children, memory = time.perf_counter(), cpu_of_children(), 0.0, 0.0
        with self.log.open("a") as log:
            process = psutil.Popen(command, cwd=self.path, env=self.environment, stdout=log, stderr=subprocess.STDOUT)
            while process.poll() is None:
                with contextlib.suppress(psutil.Error):
                    times, held = process.cpu_times(), memory_of(process)
                    of_children, memory = times.children_user + times.children_system, max(memory, held)
                with contextlib.suppress(psutil.TimeoutExpired):
                    process.wait(EVERY_S)
        if process.returncode:
            raise SystemExit(f"{' '.join(command)} failed:\n{self.log.read_text(errors='replace')[-3000:]}")
        cpu = cpu_of_children() - before
        return Line(time.perf_counter() - start, cpu, cpu - of_children, memory / 1e6)

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
    parser.add_argument("--drawn", type=int, default=4, help="parts that are drawn; the others are copies of them")
    parser.add_argument("--folder", type=Path, help="where the clones go and stay (default: a temporary folder)")
    parser.add_argument("--probe", choices=("loader", "report"), help=argparse.SUPPRESS)  # measured in this process
    arguments = parser.parse_args()
    if arguments.probe:
        print(json.dumps(loader_times() if arguments.probe == "loader" else report_times()))
        return
    commit = subprocess.run(["git", "describe", "--always"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    machine = f"{platform.machine()}, {cores()} of {psutil.cpu_count()} cores, Python {platform.python_version()}"
    print(f"commit {commit}, {machine}")
    runs = []
    with tempfile.TemporaryDirectory(prefix="scale-") as temporary:
        folder = (arguments.folder or Path(temporary)).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        for parts, patients in itertools.product(arguments.parts, arguments.patients):
            print(f"\n{parts} parts of {patients} patients")
            runs.append(run(Clone(folder / f"{parts}x{patients}", parts, patients, arguments.drawn)))
    for smaller, larger in itertools.pairwise(runs):
        print_growth(smaller, larger)


def run(clone: Clone) -> tuple[int, dict[str, Line]]:
    """All stages and commands, each line printed as soon as it is known; the number of key slices, and the lines."""
    heads = ("s", "CPU, s", "of DVC", "MB held", "MB out", "limit, s")
    print(f"{'':38s} {' '.join(f'{head:>9s}' for head in heads)}", flush=True)
    lines: dict[str, Line] = {}

    def note(name: str, line: Line) -> None:
        lines[name] = line
        columns = " ".join(text_of(value, digits) for value, digits in zip(line, (1, 1, 1, 0, 3, 0), strict=True))
        print(f"{name:38s} {columns}{'  missed' if line.dvc_s > line.limit_s else ''}", flush=True)

    for stage, patterns in outputs_of_stages(clone.path).items():
        line = clone.dvc("repro", "--single-item", stage)
        note(stage, line._replace(written_mb=clone.written_mb(*patterns)))
    note("dvc.lock", Line(written_mb=clone.written_mb("dvc.lock")))
    note("dvc repro, nothing to do", repeated(clone, "repro")._replace(limit_s=4))
    note("dvc status", repeated(clone, "status")._replace(limit_s=3))
    clone.commit()
    experiment = clone.dvc("exp", "run", "-S", "evaluate.iou=0.3", "-S", "evaluate.bootstrap=0")
    note("dvc exp run -S evaluate.iou=0.3 …", experiment._replace(limit_s=15))
    note("dvc metrics diff", repeated(clone, "metrics", "diff")._replace(limit_s=5))
    for probe in ("loader", "report"):  # last, since what they write DVC would read again
        clone.environment["LESIONPIPE_SCRATCH"] = str(clone.path / "scratch" / probe)  # where no checksum is remembered
        whole = clone.measured(sys.executable, __file__, "--probe", probe)
        for name, times in json.loads(clone.log.read_text().splitlines()[-1]).items():
            note(f"{probe}: {name}", Line(*times))
        written = clone.written_mb("report") if probe == "report" else math.nan
        note(f"{probe}: its whole process", whole._replace(dvc_s=math.nan, written_mb=written))
    key_slices = sum(table.read_bytes().count(b"\n") - 1 for table in clone.path.glob("data/key_slices/*.csv"))
    stages = sum(lines[stage].cpu_s for stage in outputs_of_stages(clone.path))
    print(f"{key_slices} key slices; all stages took {stages / 60:.1f} min of the CPU", flush=True)
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
    assert all(line.dvc_s > 0.8 * line.cpu_s for line in lines), f"dvc {' '.join(words)} ran a stage; see {clone.log}"
    return Line(*map(statistics.median, zip(*lines, strict=True)))


def cpu_of_children() -> float:
    """User and system seconds of all processes that this one has started and that have ended, theirs included."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def memory_of(process: psutil.Process) -> float:
    """Bytes that a process and its descendants hold together."""
    held = 0.0
    for member in [process, *process.children(recursive=True)]:
        with contextlib.suppress(psutil.Error, ProcessLookupError):
            memory = member.memory_full_info()
            held += getattr(memory, "pss", memory.rss)
    return held


def print_growth(smaller: tuple[int, dict[str, Line]], larger: tuple[int, dict[str, Line]]) -> None:
    """Time per key slice at two sizes, and by what factors all columns grew."""
    (few, before), (many, after) = smaller, larger
    data = many / few
    print(f"\n{few} and {many} key slices: times {data:.2f}; what grew by more than 1.1 times that is marked with !")
    heads = ("ms/slice", "ms/slice", "CPU", "of DVC", "MB held", "MB out")
    print(f"{'':38s} {' '.join(f'{head:>9s}' for head in heads)}")
    for name, old in before.items():
        new = after[name]
        factors = [b / a if a else math.nan for a, b in zip(old[1:5], new[1:5], strict=True)]
        values = [1000 * old.cpu_s / few, 1000 * new.cpu_s / many, *factors]
        marks = ["", "", *("!" if factor > 1.1 * data else "" for factor in factors)]
        columns = (text_of(value, 2, mark) for value, mark in zip(values, marks, strict=True))
        print(f"{name:38s} {' '.join(columns)}")


def text_of(value: float, digits: int, mark: str = "") -> str:
    """A column of a table; empty where nothing was measured."""
    return f"{'' if math.isnan(value) else f'{value:.{digits}f}'}{mark}".rjust(9)


def loader_times() -> dict[str, tuple[float, float]]:
    """What it takes until the loader of the training gives its first batch, step by step: seconds, those of the CPU."""
    start = clocks()
    from loading import batches

    from lesionpipe.params import load_params
    from lesionpipe.train.build import build_training

    params, times = load_params(), {"imports": since(start)}
    sections = params.preprocess, params.network, params.train, params.runtime
    for name in ("data opened, every file read", "data opened, checksums known"):
        start = clocks()
        training = build_training(params.dataset.parts, params.lesions.noisy, *sections)
        times[name] = since(start)
    start = clocks()
    next(batches(training, training.hardware.workers))
    return times | {"first batch after that": since(start)}


def report_times() -> dict[str, tuple[float, float]]:
    """What the stage `evaluate` takes for the numbers and for the page: seconds, those of the CPU."""
    from stages import evaluate as stage

    times = {}

    def timed(function):
        def call(*arguments):
            start = clocks()
            result = function(*arguments)
            times[function.__name__] = since(start)
            return result

        return call

    stage.evaluate_all, stage.write_report = timed(stage.evaluate_all), timed(stage.write_report)
    stage.main()
    return times


def clocks() -> tuple[float, float]:
    """The time, and what this process has used of the CPU, in seconds."""
    return time.perf_counter(), time.process_time()


def since(start: tuple[float, float]) -> tuple[float, float]:
    now = clocks()
    return now[0] - start[0], now[1] - start[1]


if __name__ == "__main__":
    main()
