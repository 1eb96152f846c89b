"""Train the detector: data/model.pt, metrics/train.csv and metrics/train.json."""

from pathlib import Path

from lesionpipe.core.errors import run
from lesionpipe.core.formats import write_json
from lesionpipe.detectors.checkpoint import save_model
from lesionpipe.params import load_params
from lesionpipe.train.train import Inputs, train_detector


def main() -> None:
    params = load_params()
    inputs = Inputs(params.dataset.parts)
    history = Path("metrics/train.csv")
    trained = train_detector(inputs, params.preprocess, params.network, params.train, params.runtime, history)
    if trained.writes:
        sections = {"preprocess": params.preprocess, "network": params.network, "train": params.train}
        plain = {name: section.model_dump(mode="json") for name, section in sections.items()}
        save_model("data/model.pt", trained.network, trained.anchors, plain)
        trained.save_history(history)
        write_json("metrics/train.json", trained.summary())
        trained.forget_state()


if __name__ == "__main__":
    run(main)
