"""Stage `mask_quality`: how good the masks are, by number (where true masks are known) and by eye (a contact sheet)."""

from lesionpipe.core.errors import run
from lesionpipe.core.files import atomic_path
from lesionpipe.core.formats import write_json
from lesionpipe.data.stored.schema import read_lesions
from lesionpipe.data.stored.slices import SliceStore
from lesionpipe.mask_quality.contact_sheet import choose_examples, contact_sheet, save_contact_sheet
from lesionpipe.mask_quality.quality import (
    agreement_by_group,
    agreement_with_true,
    examples_of,
    masks_with_lesions,
    method_counts,
)
from lesionpipe.params import load_params

SHOWN_LESIONS = 24


def main() -> None:
    params = load_params()
    parts, settings = params.dataset.parts, params.masks
    SliceStore.open(parts=parts)  # refuses damaged slices
    table = masks_with_lesions(parts, read_lesions())
    shown = choose_examples(table["method"].to_numpy(), table["area_px"].to_numpy(), settings.method, SHOWN_LESIONS)
    agreement, true = agreement_with_true(table, table["lesion"].iloc[shown].tolist())
    summary = method_counts(table)
    if len(agreement):
        table = table.merge(agreement, how="left", on="lesion")
        compared = table.dropna(subset="dice")
        summary["true_masks"] = agreement_by_group(compared, params.evaluate.size_edges_mm)
        if len(compared) < len(table):  # annotations of one's own may hold lesions that the phantom didn't draw
            summary["true_masks"]["without_true_mask"] = len(table) - len(compared)
    write_json("metrics/masks.json", summary)
    title = f"masks.method: {settings.method} - {len(table)} lesions, {summary['by_method']}"
    with atomic_path("metrics/masks.png") as temporary:
        save_contact_sheet(temporary, contact_sheet(examples_of(table.iloc[shown], true), settings, title))


if __name__ == "__main__":
    run(main)
