"""The paper's four rows: valid parameters, the README's commands, and the table that compares them."""

import pytest
from ruamel.yaml import YAML

from lesionpipe.commands.ablation import ROWS, command, table
from lesionpipe.params import Params


def with_settings(root, settings):
    values = YAML(typ="safe", pure=True).load((root / "params.yaml").read_text())
    for name, value in settings.items():
        section, key = name.split(".")
        values[section][key] = YAML(typ="safe", pure=True).load(value)
    return Params.model_validate(values)


@pytest.mark.parametrize("row", ROWS)
def test_a_row_is_valid_and_its_command_stands_in_the_readme(root, row):
    with_settings(root, ROWS[row])
    assert " ".join(command(row)) in (root / "README.md").read_text()


def test_the_rows_are_those_of_the_papers_table(root):
    rows = [with_settings(root, settings) for settings in ROWS.values()]
    assert [r.anchors.use for r in rows] == ["default", "searched", "searched", "searched"]
    assert [r.network.levels for r in rows] == ["P3-P7", "P3-P7", "P2-P6", "P2-P6"]
    assert [r.network.mask_branch for r in rows] == [False, False, True, True]
    assert [r.network.attention for r in rows] == [False, False, False, True]


def test_the_table_by_hand():
    found = {"original": {"metrics/scores.json:test.sensitivity_at_4": 0.6123, "val.sensitivity_at_4": 0.9}}
    lines = table(found).splitlines()
    assert lines[0] == "| row | 0.5 FP | 1 FP | 2 FP | 4 FP | 8 FP | 16 FP |"
    assert lines[2] == "| original | – | – | – | 61.2 | – | – |"
    assert lines[5] == "| attention-gate | – | – | – | – | – | – |"
