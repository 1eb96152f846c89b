"""Run the detector over the splits of `detect.splits`: data/detections.csv, data/heatmaps.npz, metrics/detect.json."""

from lesionpipe.deeplesion.shards import Shards
from lesionpipe.detector.checkpoint import load_model
from lesionpipe.errors import run
from lesionpipe.files import write_csv, write_json
from lesionpipe.params import load_params
from lesionpipe.training.detection import detect, write_heatmaps
from lesionpipe.training.machine import machine_of


def main() -> None:
    params = load_params()
    machine = machine_of(params.runtime)
    shards = Shards.open(parts=params.dataset.parts).select(params.detect.splits)
    found = detect(load_model("data/model.pt", machine.device), shards, params.detect, machine)
    write_csv("data/detections.csv", found.detections)
    write_heatmaps("data/heatmaps.npz", found)
    write_json("metrics/detect.json", found.summary())


if __name__ == "__main__":
    run(main)
