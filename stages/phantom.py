"""Stage `phantom`: one part of a synthetic DeepLesion in data/phantom/NN; an empty folder for any other dataset.source.

Usage: python -m stages.phantom NN
"""

from pathlib import Path

from lesionpipe.core.errors import part_argument, run
from lesionpipe.core.files import atomic_folder
from lesionpipe.params import load_params
from lesionpipe.phantom.archive import write_part


def main() -> None:
    params = load_params()
    part = part_argument(params.dataset.parts)
    with atomic_folder(Path("data/phantom") / part) as folder:
        if params.dataset.source == "phantom":
            write_part(part, params.phantom, folder, params.runtime.workers)


if __name__ == "__main__":
    run(main)
