"""Stage `phantom`: a synthetic DeepLesion, each part in data/phantom/NN; for another dataset.source nothing is drawn.

Usage: python -m stages.phantom
"""

from pathlib import Path

from lesionpipe.core.errors import run
from lesionpipe.core.files import atomic_folder, write_text
from lesionpipe.params import load_params
from lesionpipe.phantom.archive import write_parts


def main() -> None:
    params = load_params()
    with atomic_folder(Path("data/phantom")) as folder:
        if params.dataset.source == "phantom":
            write_parts(params.dataset.parts, params.phantom, folder, params.runtime.workers)
        else:  # a file per part, as DVC keeps no empty folders
            for part in params.dataset.parts:
                write_text(folder / part / "not-drawn.txt", f"dataset.source: {params.dataset.source}")


if __name__ == "__main__":
    run(main)
