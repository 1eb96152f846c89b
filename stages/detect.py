"""Run the detector over the splits of `detect.splits`: data/detections.csv, data/heatmaps.npz, metrics/detect.json."""

from lesionpipe.core.devices import choose_hardware
from lesionpipe.core.errors import run
from lesionpipe.core.formats import write_csv, write_json
from lesionpipe.data.slices import SliceStore
from lesionpipe.detect.detect import detect, write_heatmaps
from lesionpipe.detectors.checkpoint import load_model
from lesionpipe.params import load_params


def main() -> None:
    params = load_params()
    runtime = params.runtime
    hardware = choose_hardware(runtime.device, runtime.devices, runtime.nodes, runtime.workers)
    shards = SliceStore.open(parts=params.dataset.parts).select(params.detect.splits)
    found = detect(load_model("data/model.pt", hardware.device), shards, params.detect, hardware)
    write_csv("data/detections.csv", found.detections)
    write_heatmaps("data/heatmaps.npz", found)
    write_json("metrics/detect.json", found.summary())


if __name__ == "__main__":
    run(main)
