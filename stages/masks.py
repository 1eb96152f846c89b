"""Stage `masks`: a dense mask for every lesion of one part from its RECIST diameters (paper, sec. 2.2).

Usage: python -m stages.masks NN. Writes data/masks/NN.npz and NN.csv.
"""

import functools

import cv2
import numpy as np

from lesionpipe.core.errors import part_argument, run
from lesionpipe.core.formats import write_csv
from lesionpipe.core.parallel import spread
from lesionpipe.core.progress import progress
from lesionpipe.data.masks import StoredMask, write_masks
from lesionpipe.data.stored.schema import read_part_lesions
from lesionpipe.data.stored.slices import SliceStore
from lesionpipe.masks.methods import masks_of_slice, methods_table, slice_tasks
from lesionpipe.params import load_params


def main() -> None:
    params = load_params()
    part = part_argument(params.dataset.parts)
    array, index = f"data/slices/{part}.npy", SliceStore.open(parts=[part]).index
    tasks = slice_tasks(array, index, read_part_lesions(part))
    work = functools.partial(masks_of_slice, settings=params.masks)
    runtime = params.runtime
    cv2.setNumThreads(1)  # of each of the threads that share the cores
    results = spread(work, tasks, runtime.workers, "threads", runtime.cluster)
    made = list(progress(results, f"masks {part}", len(tasks), "slice"))
    kept = [StoredMask(n, task.row, *m[:3]) for task, pairs in zip(tasks, made, strict=True) for n, m in pairs]
    side = np.load(array, mmap_mode="r").shape[-1]
    write_masks(f"data/masks/{part}.npz", kept, side)
    write_csv(f"data/masks/{part}.csv", methods_table(pair for pairs in made for pair in pairs))


if __name__ == "__main__":
    run(main)
