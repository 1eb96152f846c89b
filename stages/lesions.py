"""Stage `lesions`: DL_info.csv to one checked row per usable lesion, and the key slices of each part."""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from lesionpipe.core.errors import run
from lesionpipe.core.files import atomic_folder
from lesionpipe.core.formats import write_csv, write_json
from lesionpipe.data.stored.schema import LESIONS_BY_PART, LESIONS_CSV
from lesionpipe.download.http_client import RetryPolicy
from lesionpipe.download.inventory import read_inventories
from lesionpipe.lesions.checks import ALL_PARTS, compare_with_published, counts_as_text, key_slices, usable_lesions
from lesionpipe.lesions.dl_info import read_dl_info
from lesionpipe.lesions.leftovers import remove_other_parts
from lesionpipe.lesions.source import Annotations, provide_annotations
from lesionpipe.params import Params, load_params


def main() -> None:
    params = load_params()
    source, parts = params.dataset.source, params.dataset.parts
    remove_other_parts(parts)
    annotations = annotations_of(params)
    lesions, counts = usable_lesions(read_dl_info(*annotations.paths), read_inventories(parts))
    counts = {"annotations": {"file": annotations.name, "md5": annotations.md5}} | counts
    if source != "phantom" and len(parts) == ALL_PARTS:
        counts["whole_set"] = compare_with_published(counts)
    print(counts_as_text(counts))
    write_csv(LESIONS_CSV, lesions)
    of_parts = dict(iter(lesions.groupby("part")))
    by_part = {part: of_parts.get(part, lesions.iloc[:0]) for part in parts}
    write_by_part(LESIONS_BY_PART, by_part)
    write_by_part("data/key_slices", {part: key_slices(own) for part, own in by_part.items()})
    write_json("metrics/lesions.json", counts)


def annotations_of(params: Params) -> Annotations:
    """The files that hold the lesions, fetched if need be."""
    dataset, download = params.dataset, params.download
    retries = RetryPolicy(download.retries, download.timeout_s)
    return provide_annotations(
        dataset.source, dataset.parts, dataset.path, dataset.annotations, download.annotation_urls, retries
    )


def write_by_part(folder: str | Path, tables: Mapping[str, pd.DataFrame]) -> None:
    """Leave a folder of one table per part."""
    with atomic_folder(folder) as new:
        for part, table in tables.items():
            write_csv(new / f"{part}.csv", table)


if __name__ == "__main__":
    run(main)
