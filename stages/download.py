"""Stage `download`: what one part holds, in data/inventory/NN.csv; NIH's archives are fetched, given ones verified.

Usage: python -m stages.download NN. DVC doesn't see changes in an extracted folder: `dvc repro -f download` reads them.
"""

from lesionpipe.core.errors import part_argument, run
from lesionpipe.download.archives import OFFICIAL_TABLE
from lesionpipe.download.http_client import RetryPolicy
from lesionpipe.download.inventory import Inventory, inventory_path, write_inventory
from lesionpipe.download.sources import list_folder, take_archive, take_phantom
from lesionpipe.params import Params, load_params


def main() -> None:
    params = load_params()
    part = part_argument(params.dataset.parts)
    inventory = take_inventory(part, params)
    write_inventory(inventory_path(part), inventory)
    print(f"part {part}: {len(inventory.stamps)} slices")


def take_inventory(part: str, params: Params) -> Inventory:
    """The inventory of a part from wherever its slices lie."""
    dataset, table = params.dataset, params.download.archives or OFFICIAL_TABLE
    match dataset.source:
        case "phantom":
            return take_phantom(part)
        case "folder":
            return list_folder(dataset.path, part, dataset.parts)
        case "archives":
            return take_archive(part, dataset.path, table)
        case "nih":
            policy = RetryPolicy(params.download.retries, params.download.timeout_s)
            return take_archive(part, dataset.path, table, dataset.parts, policy, params.runtime.downloads)


if __name__ == "__main__":
    run(main)
