"""Stage `phantom`: a synthetic DeepLesion, each part in data/phantom/NN; for another dataset.source nothing is drawn.

Usage: python -m stages.phantom
"""

from pathlib import Path

from lesionpipe.core.errors import run
from lesionpipe.core.files import atomic_folder, write_text
from lesionpipe.params import load_params
from lesionpipe.phantom.archive import write_part


def main() -> None:
    params = load_params()
    source = params.dataset.source
    with atomic_folder(Path("data/phantom")) as folder:
        for part in params.dataset.parts:
            (folder / part).mkdir()
            if source == "phantom":
                write_part(part, params.phantom, folder / part, params.runtime.workers)
            else:  # a file, as DVC keeps no empty folders
                write_text(folder / part / "not-drawn.txt", f"dataset.source: {source}")


if __name__ == "__main__":
    run(main)
