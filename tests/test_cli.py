"""The `lesionpipe` command: whose code it runs, and what it answers where a command is gone."""

import os
import shutil
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from lesionpipe.cli import app
from lesionpipe.core.errors import UserError

COMMAND = "import sys; from lesionpipe.cli import main; sys.argv[0] = 'lesionpipe'; main()"


@pytest.fixture
def second_checkout(root, tmp_path):
    """A checkout whose list of presets says that it is another."""
    shutil.copytree(root / "lesionpipe", tmp_path / "lesionpipe", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(root / "presets", tmp_path / "presets")
    shutil.copy(root / "dvc.yaml", tmp_path)
    module = tmp_path / "lesionpipe/commands/preset.py"
    module.write_text(module.read_text().replace('print("\\n".join(preset_names()))', 'print("the second checkout")'))
    return tmp_path


def run(folder, *words, **environment):
    """What the installed command prints in a folder; it is installed for the first checkout alone."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    words = [sys.executable, "-P", "-c", COMMAND, *words]
    done = subprocess.run(words, cwd=folder, env=kept | environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("environment", [{}, {"PYTHONSAFEPATH": "1"}])
def test_within_another_checkout_its_code_runs(root, second_checkout, environment):
    assert run(second_checkout, "preset", **environment) == "the second checkout\n"
    assert "deeplesion" in run(root, "preset", **environment)


def test_elsewhere_the_installed_code_runs(tmp_path):
    (tmp_path / "lesionpipe").mkdir()
    (tmp_path / "lesionpipe/cli.py").write_text("raise SystemExit('not ours')")  # no dvc.yaml beside it
    assert "differential evolution" in run(tmp_path, "anchors", "--help")


def test_a_former_command_names_what_replaced_it():
    result = CliRunner().invoke(app, ["drop", "01", "--anything"])
    assert isinstance(result.exception, UserError)
    assert "drop is gone" in str(result.exception) and "lesionpipe fetch" in str(result.exception)
    assert "drop" not in CliRunner().invoke(app, ["--help"]).output.split()


def test_the_package_runs_as_a_module(root):
    done = subprocess.run([sys.executable, "-m", "lesionpipe", "--help"], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0 and "ablation" in done.stdout
