"""Stage `mask_sheet`: how good the masks are, by number (where true masks are known) and by eye (a contact sheet)."""

from lesionpipe.core.errors import run
from lesionpipe.core.files import atomic_path
from lesionpipe.core.formats import write_json
from lesionpipe.data.schema import read_lesions
from lesionpipe.masks.contact_sheet import choose, contact_sheet, save_sheet
from lesionpipe.masks.quality import examples, mask_table, true_agreement, true_masks
from lesionpipe.masks.summary import agreement, counts
from lesionpipe.params import load_params

SHOWN = 24


def main() -> None:
    params = load_params()
    parts = params.dataset.parts
    table, true = mask_table(parts, read_lesions()), true_masks(parts)
    summary = counts(table)
    if true:
        table = table.merge(true_agreement(parts, table, true), how="left", on="lesion")
        compared = table.dropna(subset="dice")
        summary["true_masks"] = agreement(compared)
        if len(compared) < len(table):  # annotations of one's own may hold lesions that the phantom didn't draw
            summary["true_masks"]["without_true_mask"] = len(table) - len(compared)
    write_json("metrics/masks.json", summary)
    shown = choose(table["method"].to_numpy(), table["area_px"].to_numpy(), params.masks.method, SHOWN)
    title = f"masks.method: {params.masks.method} - {len(table)} lesions, {dict(summary['by_method'])}"
    with atomic_path("metrics/masks.png") as temporary:
        save_sheet(temporary, contact_sheet(examples(table.iloc[shown], true), params.masks, title))


if __name__ == "__main__":
    run(main)
