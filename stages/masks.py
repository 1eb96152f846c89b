"""Dense masks of one part from its weak RECIST labels (paper, sec. 2.2): data/masks/NN.npz and NN.csv."""

import functools
import sys

from lesionpipe.core.errors import run
from lesionpipe.core.formats import write_csv
from lesionpipe.core.parallel import parallel_map
from lesionpipe.data.geometry import to_stored
from lesionpipe.data.masks import write_masks
from lesionpipe.data.schema import read_lesions
from lesionpipe.data.slices import SliceStore
from lesionpipe.masks.batch import mask_table, masks_of_slice, slice_tasks, stored
from lesionpipe.params import load_params


def main() -> None:
    params, part = load_params(), sys.argv[1]
    shards = SliceStore.open(parts=[part])
    lesions = read_lesions()
    tasks = slice_tasks(f"data/slices/{part}.npy", shards.index, lesions[lesions["part"] == part], to_stored)
    work = functools.partial(masks_of_slice, settings=params.masks)
    runtime = params.runtime
    results = list(parallel_map(work, tasks, f"masks {part}", runtime.workers, "slice", runtime.cluster))
    kept = [stored(task.row, *pair) for task, pairs in zip(tasks, results, strict=True) for pair in pairs]
    write_masks(f"data/masks/{part}.npz", kept, params.preprocess.image_size)
    write_csv(f"data/masks/{part}.csv", mask_table(pair for pairs in results for pair in pairs))


if __name__ == "__main__":
    run(main)
