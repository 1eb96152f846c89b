"""Stage `download`: the slices of one part, fetched, drawn or pointed to, and the list of what lies in it."""

import sys

from lesionpipe.core.errors import run
from lesionpipe.download.sources import provide
from lesionpipe.download.transfer import Patience
from lesionpipe.params import load_params


def main() -> None:
    params = load_params()
    provide(sys.argv[1], params.dataset, params.phantom, Patience.of(params), params.runtime.workers)


if __name__ == "__main__":
    run(main)
