"""Where the organs and tubes lie: key points in relative coordinates (see `body.py`).

`organs.json` holds the fields of `body.Organ` by region, in painting order; `courses.json` holds u, v, t and the radius
in mm of each key point of a tube.
"""

import functools
import json
from pathlib import Path
from typing import Literal

from lesionpipe.phantom.body import Organ
from lesionpipe.phantom.canvas import Label

CHEST_SOFT = (Label.LUNG, Label.MEDIASTINUM)
PELVIC_ORGANS = ("womb", "prostate", "bladder")
ARTERIES = ("aorta", "right_iliac", "left_iliac", "right_carotid", "left_carotid", "left_subclavian")
HEART_VESSELS = ("pulmonary", "left_pulmonary", "vena_cava_superior", "brachiocephalic")
VEINS = ("vena_cava", "portal", "splenic", "right_renal", "left_renal", "right_iliac_vein", "left_iliac_vein")
AIRWAYS = ("trachea", "right_bronchus", "left_bronchus")


def organs_of(region: Literal["chest", "belly", "pelvis"]) -> dict[str, Organ]:
    """The organs of a region by name."""
    found = {}
    for name, fields in _read("organs.json")[region].items():
        labels = {"label": Label[fields["label"]]}
        if "within" in fields:
            labels["within"] = tuple(Label[label] for label in fields["within"])
        found[name] = Organ(**(fields | labels))
    return found


def tube_courses() -> dict[str, list[tuple[float, float, float, float]]]:
    """Key points (u, v, t, radius in mm) of the tubes by name."""
    return _read("courses.json")


@functools.cache
def _read(name: str) -> dict:
    return json.loads(Path(__file__).with_name(name).read_text(encoding="utf-8"))
