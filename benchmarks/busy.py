"""What one more busy process costs a training, by how long OpenMP's threads spin: images/s alone and beside it.

    dvc repro masks anchors && python benchmarks/busy.py [--spins default 0 1000 passive] [--rounds 3] [--seconds 6]

Each measurement is a process of its own, since OpenMP reads GOMP_SPINCOUNT once; all of them alternate, each alone and
then beside a loop that is always busy, and the median of the rounds counts, because other jobs disturb them. A share of
0.5 on two cores means that the busy process cost just the core it takes.
"""

import argparse
import contextlib
import itertools
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator

BUSY = "while True: pass"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spins", nargs="+", default=["default", "0", "1000", "10000", "100000", "passive"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=6.0, help="of each measurement")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)  # a measurement in this process
    arguments = parser.parse_args()
    if arguments.one:
        print(step_rate(arguments.seconds))
        return
    alone, beside = ({spins: [] for spins in arguments.spins} for _ in range(2))
    for _ in range(arguments.rounds):
        for spins in arguments.spins:
            alone[spins].append(measured(spins, arguments.seconds))
            with busy_process():
                beside[spins].append(measured(spins, arguments.seconds))
    print(f"{'spins':>8s} {'alone':>12s} {'best':>6s} {'beside':>12s} {'best':>6s} {'share':>6s}   images/s, medians")
    for spins in arguments.spins:
        columns = [value for rates in (alone[spins], beside[spins]) for value in (statistics.median(rates), max(rates))]
        share = columns[2] / columns[0]
        print(f"{spins:>8s} {columns[0]:12.2f} {columns[1]:6.2f} {columns[2]:12.2f} {columns[3]:6.2f} {share:6.2f}")


def measured(spins: str, seconds: float) -> float:
    """Images/s of the training step in a new process."""
    names = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
    environment = {name: value for name, value in os.environ.items() if name not in names}
    if spins == "passive":
        environment["OMP_WAIT_POLICY"] = "PASSIVE"
    elif spins != "default":
        environment["GOMP_SPINCOUNT"] = spins
    command = [sys.executable, __file__, "--one", "--seconds", str(seconds)]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return float(done.stdout.split()[-1])


@contextlib.contextmanager
def busy_process() -> Iterator[None]:
    process = subprocess.Popen([sys.executable, "-c", BUSY])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def step_rate(seconds: float) -> float:
    """Images/s of the training step on batches in memory."""
    from loading import HELD, batches, steps  # after the variables that OpenMP reads

    from lesionpipe.core.devices import tune_for
    from lesionpipe.params import load_params
    from lesionpipe.train.build import build_training

    params = load_params()
    training = build_training(
        params.dataset.parts, params.lesions.noisy, params.preprocess, params.network, params.train, params.runtime
    )
    tune_for(training.hardware.device)
    work = steps(training, list(itertools.islice(batches(training, 0), HELD)))
    for _ in range(2):
        next(work)
    start, turns = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        next(work)
        turns += 1
    return turns * training.settings.batch_size / (time.perf_counter() - start)


if __name__ == "__main__":
    main()
