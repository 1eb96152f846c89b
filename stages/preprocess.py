"""One part's key slices with their neighbours, as int16 HU: data/slices/NN.npy and NN.csv. Usage: preprocess.py NN"""

import sys

from lesionpipe.deeplesion.preprocess import preprocess_part, read_key_slices
from lesionpipe.deeplesion.reader import open_part
from lesionpipe.errors import run
from lesionpipe.params import load_params


def main() -> None:
    part = sys.argv[1]
    params = load_params()
    reader = open_part(params.dataset, part)
    index = preprocess_part(reader, read_key_slices(part), params.preprocess, part,
                            workers=params.runtime.workers, cluster=params.runtime.cluster)  # fmt: skip
    kinds = ", ".join(f"{count} {kind}" for kind, count in index["neighbours"].value_counts().items())
    print(f"part {part}: {len(index)} key slices; neighbours: {kinds or 'none'}")


if __name__ == "__main__":
    run(main)
