"""Dense masks of one part from its weak RECIST labels (paper, sec. 2.2): data/masks/NN.npz and NN.csv."""

import functools
import sys

from lesionpipe.deeplesion.lesion_table import read_lesions
from lesionpipe.deeplesion.shards import Shards
from lesionpipe.deeplesion.stack import to_stored
from lesionpipe.errors import run
from lesionpipe.files import write_csv
from lesionpipe.parallel import parallel_map
from lesionpipe.params import load_params
from lesionpipe.weak_labels.batch import mask_table, masks_of_slice, slice_tasks, stored
from lesionpipe.weak_labels.store import write_masks


def main() -> None:
    params, part = load_params(), sys.argv[1]
    shards = Shards.open(parts=[part])
    lesions = read_lesions()
    tasks = slice_tasks(f"data/slices/{part}.npy", shards.index, lesions[lesions["part"] == part], to_stored)
    work = functools.partial(masks_of_slice, settings=params.masks)
    runtime = params.runtime
    results = list(parallel_map(work, tasks, f"masks {part}", runtime.workers, "slice", runtime.cluster))
    kept = [stored(task.row, *pair) for task, pairs in zip(tasks, results, strict=True) for pair in pairs]
    write_masks(f"data/masks/{part}.npz", kept, params.preprocess.size)
    write_csv(f"data/masks/{part}.csv", mask_table(pair for pairs in results for pair in pairs))


if __name__ == "__main__":
    run(main)
