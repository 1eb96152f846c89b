"""The scratch folder: what DVC must not see, such as half-fetched archives and the states of interrupted trainings."""

import os
from pathlib import Path

VARIABLE = "LESIONPIPE_SCRATCH"


def scratch_folder() -> Path:
    """`scratch` in the working folder, or the folder that the environment variable LESIONPIPE_SCRATCH names."""
    return Path(os.environ.get(VARIABLE) or "scratch")
