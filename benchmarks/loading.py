"""Is loading ever the bottleneck? Images/s of the loader alone against the training step alone, in one run.

    dvc repro masks anchors && python benchmarks/loading.py [SECONDS per measurement]

Reads params.yaml and what the data stages left; the step runs on the device that `runtime` names, on batches in memory.
"""

import argparse
import itertools
import os
import time
from collections.abc import Callable, Iterator

import torch

from lesionpipe.core.devices import Hardware, compile_network, tune_for
from lesionpipe.core.errors import run
from lesionpipe.data.samples import Batch, loader
from lesionpipe.params import load_params
from lesionpipe.train.build import build_training
from lesionpipe.train.dataset import EpochSampler
from lesionpipe.train.loop import Training, batch_losses, clip_gradients

HELD = 4  # batches kept in memory for the step


def main() -> None:
    params = load_params()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("seconds", type=float, nargs="?", default=10.0, help="of each measurement")
    seconds = parser.parse_args().seconds
    training = build_training(
        params.dataset.parts, params.lesions.noisy, params.preprocess, params.network, params.train, params.runtime
    )
    hardware, batch = training.hardware, training.settings.batch_size
    tune_for(hardware.device)
    side = params.preprocess.image_size
    print(f"{len(training.slices)} slices of {side} px, batch {batch}, {hardware.device}, {os.cpu_count()} cores")
    rates = {}
    for workers in sorted({0, 1, 2, hardware.workers}):
        rates[workers] = rate(batches(training, workers), batch, seconds)
        print(f"loader alone, {workers} processes: {rates[workers]:8.1f} images/s")
    step = rate(steps(training, list(itertools.islice(batches(training, 0), HELD))), batch, seconds)
    print(f"training step alone:       {step:8.1f} images/s")
    print(f"loader / step with {hardware.workers} processes, as training uses: {rates[hardware.workers] / step:.1f}")


def batches(training: Training, workers: int) -> Iterator[Batch]:
    """Augmented batches without end."""
    settings = training.settings
    sampler = EpochSampler(len(training.slices), settings.batch_size, settings.seed)
    hardware = Hardware(training.hardware.device, 1, 1, workers)
    endless = loader(training.slices, settings.batch_size, sampler, hardware)
    return itertools.chain.from_iterable(itertools.repeat(endless))


def steps(training: Training, held: list[Batch]) -> Iterator[None]:
    """Training steps without end, each of one batch."""
    settings, device = training.settings, training.hardware.device
    if settings.channels_last:
        training.detector.to(memory_format=torch.channels_last)
    if settings.compile:
        compile_network(training.detector, device, "train.compile")
    model = training.detector.to(device)
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    for batch in itertools.cycle(held):
        there = Batch(*(value.to(device) if isinstance(value, torch.Tensor) else value for value in batch))
        batch_losses(model, there, settings)["total"].backward()
        clip_gradients(model, settings.gradient_clip_norm)
        optimizer.step()
        optimizer.zero_grad()
        yield


def rate(work: Iterator, batch: int, seconds: float, clock: Callable[[], float] = time.perf_counter) -> float:
    """Images per second of `work`, one batch a turn, after three turns to warm up."""
    for _ in range(3):
        next(work)
    _wait()
    start, turns = clock(), 0
    while clock() - start < seconds:
        next(work)
        turns += 1
    _wait()
    return turns * batch / (clock() - start)


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


if __name__ == "__main__":
    run(main)
