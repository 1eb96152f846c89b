"""Stage `preprocess`: a part's key slices with their neighbours as int16 HU, data/slices/NN.npy and NN.csv."""

from lesionpipe.core.errors import part_argument, run
from lesionpipe.download.inventory import read_inventory
from lesionpipe.download.reader import open_part
from lesionpipe.params import load_params
from lesionpipe.preprocess.part import preprocess_part, read_key_slices


def main() -> None:
    params = load_params()
    dataset, runtime = params.dataset, params.runtime
    part = part_argument(dataset.parts)
    index = preprocess_part(
        open_part(dataset.source, dataset.path, part, read_inventory(part)),
        read_key_slices(part),
        params.preprocess,
        part,
        workers=runtime.workers,
        cluster=runtime.cluster,
    )
    kinds = ", ".join(f"{count} {kind}" for kind, count in index["neighbours"].value_counts().items())
    print(f"part {part}: {len(index)} key slices; neighbours: {kinds or 'none'}")


if __name__ == "__main__":
    run(main)
