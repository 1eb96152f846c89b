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

from lesionpipe.anchors.grid import AnchorSet, anchors_for
from lesionpipe.core.devices import Machine, compile_network, machine_of, tune_for
from lesionpipe.core.errors import run
from lesionpipe.core.files import read_json
from lesionpipe.data.samples import Batch, loader
from lesionpipe.detectors.retinanet.network import build_network
from lesionpipe.params import Params, load_params
from lesionpipe.train.dataset import EpochSampler, LesionDataset
from lesionpipe.train.module import DetectorTraining
from lesionpipe.train.train import Inputs, open_dataset

HELD = 4  # batches kept in memory for the step


def main() -> None:
    params = load_params()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("seconds", type=float, nargs="?", default=10.0, help="of each measurement")
    seconds = parser.parse_args().seconds
    machine = machine_of(params.runtime)
    tune_for(machine.device)
    dataset = open_dataset(Inputs(params.dataset.parts), params.preprocess, params.network, params.train, "train")
    side, batch = params.preprocess.image_size, params.train.batch_size
    print(f"{len(dataset)} training slices of {side} px, batch {batch}, {machine.device}, {os.cpu_count()} cores")
    rates = {}
    for workers in sorted({0, 1, 2, machine.workers}):
        rates[workers] = rate(batches(dataset, params, workers, machine.device), batch, seconds)
        print(f"loader alone, {workers} processes: {rates[workers]:8.1f} images/s")
    held = list(itertools.islice(batches(dataset, params, 0, machine.device), HELD))
    step = rate(steps(params, held, machine), batch, seconds)
    print(f"training step alone:       {step:8.1f} images/s")
    print(f"loader / step with {machine.workers} processes, as training uses: {rates[machine.workers] / step:.1f}")


def batches(dataset: LesionDataset, params: Params, workers: int, device: str) -> Iterator[Batch]:
    """Augmented batches without end."""
    sampler = EpochSampler(len(dataset), params.train.batch_size, params.train.seed)
    endless = loader(dataset, params.train.batch_size, sampler, Machine(device, 1, 1, workers))
    return itertools.chain.from_iterable(itertools.repeat(endless))


def steps(params: Params, held: list[Batch], machine: Machine) -> Iterator[None]:
    """Training steps without end, each of one batch."""
    anchor_set = AnchorSet.from_dict(read_json("data/anchors.json"))
    network = build_network(params.network, params.preprocess.slices, anchor_set.per_cell)
    if params.train.channels_last:
        network = network.to(memory_format=torch.channels_last)
    if params.train.compile:
        compile_network(network, machine.device, "train.compile")
    anchors = torch.from_numpy(anchors_for(anchor_set, params.preprocess.image_size, params.preprocess.image_size))
    module = DetectorTraining(network, anchors, params.train, params.preprocess.hu).to(machine.device)
    optimizer = module.configure_optimizers()
    for batch in itertools.cycle(held):
        there = Batch(*(value.to(machine.device) if isinstance(value, torch.Tensor) else value for value in batch))
        with torch.autocast(machine.device, torch.bfloat16, enabled=params.train.precision == "bf16"):
            loss = module.losses(there)["total"]
        loss.backward()
        module.on_before_optimizer_step(optimizer)
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
