"""One script per stage of dvc.yaml, run as `python -m stages.NAME`: each uses the package beside it.

GNU's OpenMP, which torch computes with, reads its variables once, when torch is imported, so they are set here. Its
threads wait for each other by spinning, 300,000 turns before they sleep unless a variable says otherwise: time that is
lost to a thread on a core that another program keeps busy. `SPINS` turns are as fast alone (docs/train.md, "Beside
other programs"). Results stay the same.
"""

import os

SPINS = 1000

if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", str(SPINS))
