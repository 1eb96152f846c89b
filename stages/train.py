"""Stage `train`: the detector, on a GPU where there is one; an interrupted training goes on (paper, sec. 2.3).

Writes data/model.safetensors, metrics/train.csv, train.json and environment.json, and the times data/times/train.csv.
"""

from lesionpipe.core.bfloat16 import report_arithmetic
from lesionpipe.core.errors import run
from lesionpipe.core.formats import write_json
from lesionpipe.detectors.build import unused_parameters
from lesionpipe.detectors.checkpoint import MODEL, save_model
from lesionpipe.params import load_params
from lesionpipe.train.build import build_training
from lesionpipe.train.history import environment
from lesionpipe.train.loop import train_detector
from lesionpipe.train.processes import training_processes
from lesionpipe.train.state import clear_state


def main() -> None:
    params = load_params()
    training = build_training(
        params.dataset.parts, params.lesions.noisy, params.preprocess, params.network, params.train, params.runtime
    )
    arithmetic = training.settings.arithmetic
    with training_processes(training.hardware, training.state_folder) as fabric:
        if fabric.is_global_zero:
            report_arithmetic(arithmetic, "train.precision")
            if unused := ", ".join(unused_parameters(params.network.kind)):
                print(f"network.kind: {params.network.kind}, which doesn't use {unused}", flush=True)
        history = train_detector(fabric, training)
        if fabric.is_global_zero:
            save_model(MODEL, training.detector, training.anchors, training.parameters)
            history.write()
            write_json("metrics/train.json", history.summary())
            write_json("metrics/environment.json", environment(training.hardware, arithmetic.precision))
            clear_state(training.state_folder)


if __name__ == "__main__":
    run(main)
