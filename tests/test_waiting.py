"""OpenMP's threads spin shortly in a stage, unless the user decided; importing the package sets nothing."""

import json
import os
import subprocess
import sys

import pytest
from toy_set import ROOT

import stages

NAMES = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")


def variables_after(module: str, **given: str) -> list[str | None]:
    """Both variables after an import in a new process that was given some of them."""
    environment = {name: value for name, value in os.environ.items() if name not in NAMES} | given
    program = f"import json, os, {module}; print(json.dumps([os.environ.get(name) for name in {NAMES}]))"
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, cwd=ROOT, stdout=subprocess.PIPE, check=True
    )
    return json.loads(done.stdout)


@pytest.mark.parametrize("module", ["stages.train", "stages.detect"])
def test_a_stage_lets_threads_spin_shortly(module):
    assert variables_after(module) == [str(stages.SPINS), None]


@pytest.mark.parametrize("given", [{"GOMP_SPINCOUNT": "7"}, {"OMP_WAIT_POLICY": "ACTIVE"}])
def test_what_the_user_has_set_stays(given):
    assert variables_after("stages.train", **given) == [given.get(name) for name in NAMES]


def test_the_package_alone_sets_nothing():
    assert variables_after("lesionpipe.train.loop") == [None, None]
