"""A synthetic DeepLesion: schematic CT with lesions of all eight types in the official format, and their true masks.

`annotations` is its DL_info.csv, `write_part` one of its archives; a seed gives the same bytes on every run. From the
outside in: archive and table (files), render (slices), plan (patients, scans, lesions), placement and lesions, anatomy
with its organs, tubes and trunk, and canvas, on which contours in mm become pixels.
"""

from lesionpipe.phantom.archive import read_true_masks, write_part
from lesionpipe.phantom.table import annotations

__all__ = ["annotations", "read_true_masks", "write_part"]
