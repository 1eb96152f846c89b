"""One part's key slices with their neighbours, as int16 HU: data/slices/NN.npy and NN.csv. Usage: preprocess.py NN"""

import sys

from lesionpipe.core.errors import run
from lesionpipe.download.reader import open_part
from lesionpipe.params import load_params
from lesionpipe.preprocess.part import preprocess_part, read_key_slices


def main() -> None:
    part = sys.argv[1]
    params = load_params()
    reader = open_part(params.dataset, part)
    index = preprocess_part(
        reader,
        read_key_slices(part),
        params.preprocess,
        part,
        workers=params.runtime.workers,
        cluster=params.runtime.cluster,
    )
    kinds = ", ".join(f"{count} {kind}" for kind, count in index["neighbours"].value_counts().items())
    print(f"part {part}: {len(index)} key slices; neighbours: {kinds or 'none'}")


if __name__ == "__main__":
    run(main)
