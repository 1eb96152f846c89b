"""Stage `annotations`: DL_info.csv, fetched, given or the phantom's own."""

from lesionpipe.core.errors import run
from lesionpipe.download.transfer import Patience
from lesionpipe.lesions.source import provide_annotations
from lesionpipe.params import load_params


def main() -> None:
    params = load_params()
    provide_annotations(params.dataset, params.phantom, params.download.annotation_urls, Patience.of(params))


if __name__ == "__main__":
    run(main)
