"""One epoch of one step, run by test_processes.py with one or two processes: gradients_job.py PROCESSES OUTPUT."""

import sys

import torch

from lesionpipe.params import load_params
from lesionpipe.train import loop
from lesionpipe.train.build import build_training
from lesionpipe.train.processes import training_processes


def evaluation_mode(model: torch.nn.Module, mode: bool = True) -> torch.nn.Module:
    """Instead of training mode: a batch norm would know only its own process's images."""
    return torch.nn.Module.train(model, mode=False)


def main() -> None:
    params = load_params()
    runtime = params.runtime.model_copy(update={"devices": int(sys.argv[1])})
    training = build_training(
        params.dataset.parts, params.lesions.noisy, params.preprocess, params.network, params.train, runtime
    )
    with training_processes(training.hardware, training.state_folder) as fabric:

        def keep_gradients(model, norm):
            if fabric.is_global_zero:
                parameters = training.detector.named_parameters()
                torch.save({name: value.grad for name, value in parameters}, sys.argv[2])

        loop.clip_gradients = keep_gradients
        type(training.detector).train = evaluation_mode
        history = loop.train_detector(fabric, training)
        if fabric.is_global_zero:
            print(history.table().to_json(orient="records"))


if __name__ == "__main__":
    main()
