"""Run the detector over the splits of `detect.splits`: data/detections.csv, data/heatmaps.npz, metrics/detect.json."""

from lesionpipe.core.bfloat16 import choose_arithmetic, report_arithmetic
from lesionpipe.core.devices import choose_hardware
from lesionpipe.core.errors import UserError, run
from lesionpipe.core.formats import write_csv, write_json
from lesionpipe.data.detections import DETECTIONS, HEATMAPS
from lesionpipe.data.stored.slices import SliceStore
from lesionpipe.detect.stored_slices import build_settings, detect_slices, write_heatmaps
from lesionpipe.detectors.checkpoint import MODEL, load_model
from lesionpipe.params import load_params


def main() -> None:
    params = load_params()
    runtime = params.runtime
    hardware = choose_hardware(runtime.device, runtime.devices, runtime.nodes, runtime.workers)
    store = SliceStore.open(parts=params.dataset.parts).select(params.detect.splits)
    if len(store) == 0:
        splits, parts = ", ".join(params.detect.splits), ", ".join(params.dataset.parts)
        raise UserError(f"params.yaml: detect.splits: no slice of {splits} in the parts {parts} (dataset.parts)")
    model = load_model(MODEL, hardware.device)
    if (trained := model.params["network"]["kind"]) != params.network.kind:
        raise UserError(
            f"{MODEL}: network.kind = {trained}, params.yaml asks for {params.network.kind}; run `dvc repro`"
        )
    arithmetic = choose_arithmetic(params.detect.precision, hardware.device, training=False)
    report_arithmetic(arithmetic, "detect.precision")
    found = detect_slices(model, store, build_settings(params.detect, arithmetic.precision), hardware)
    write_csv(DETECTIONS, found.table)
    write_heatmaps(HEATMAPS, found)
    counts = {"images": found.images, "detections": len(found.table)}
    write_json("metrics/detect.json", {**counts, "precision": arithmetic.precision})
    # not tracked: two runs with the same inputs leave the same outputs, but never the same times
    write_json("data/times/detect.json", {"device": hardware.device, "ms_per_image": round(found.ms_per_image, 3)})


if __name__ == "__main__":
    run(main)
