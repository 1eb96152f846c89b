"""Stage `listing` (only for an extracted folder): its slices with size and time, looked at in every `dvc repro`."""

from lesionpipe.core.errors import run
from lesionpipe.core.formats import write_csv
from lesionpipe.download.inventory import list_folder
from lesionpipe.params import FOLDER_LISTING, load_params


def main() -> None:
    params = load_params()
    write_csv(FOLDER_LISTING, list_folder(params.dataset.path, params.dataset.parts))


if __name__ == "__main__":
    run(main)
