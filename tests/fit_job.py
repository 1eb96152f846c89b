"""One epoch of one step, run by test_fit.py with one or two processes: python fit_job.py PROCESSES OUTPUT."""

import sys

import lightning as L
import torch

from lesionpipe.params import load_params
from lesionpipe.train import train


class KeepGradients(L.Callback):
    """Saves the gradients of the step; batch norm is frozen because it knows only its own process's images."""

    def on_train_batch_start(self, trainer, module, batch, step):
        module.network.eval()

    def on_before_optimizer_step(self, trainer, module, optimizer):
        if trainer.is_global_zero:
            gradients = {name: value.grad for name, value in module.network.named_parameters()}
            torch.save(gradients, sys.argv[2])


def main() -> None:
    params = load_params()
    runtime = params.runtime.model_copy(update={"devices": int(sys.argv[1])})
    trainer_of = train.fit.__globals__["build_trainer"]

    def with_keeper(settings, machine, callbacks, epochs):
        return trainer_of(settings, machine, [KeepGradients(), *callbacks], epochs)

    train.fit.__globals__["build_trainer"] = with_keeper
    inputs = train.Inputs(params.dataset.parts)
    trained = train.train_detector(inputs, params.preprocess, params.network, params.train, runtime)
    if trained.writes:
        trained.forget_state()
        print(trained.history.table().drop(columns=["images_per_s", "seconds"]).to_json(orient="records"))


if __name__ == "__main__":
    main()
