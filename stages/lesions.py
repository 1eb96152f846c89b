"""Stage `lesions`: one checked row per usable lesion of the parts present, and the key slices of each part."""

import shutil
from pathlib import Path

from lesionpipe.core.errors import run
from lesionpipe.core.formats import write_csv, write_json
from lesionpipe.download.inventory import read_inventories
from lesionpipe.lesions.checks import key_slices, report, usable_lesions
from lesionpipe.lesions.dl_info import read_dl_info
from lesionpipe.params import load_params


def main() -> None:
    params = load_params()
    slices = read_inventories(params.dataset.parts)
    lesions, counts = usable_lesions(read_dl_info("data/raw/DL_info.csv"), slices, params.lesions.noisy)
    print(report(counts))
    write_csv("data/lesions.csv", lesions)
    folder = Path("data/key_slices")
    shutil.rmtree(folder, ignore_errors=True)  # parts of an earlier run that are no longer asked for
    for part in params.dataset.parts:
        write_csv(folder / f"{part}.csv", key_slices(lesions, part))
    write_json("metrics/lesions.json", counts)


if __name__ == "__main__":
    run(main)
