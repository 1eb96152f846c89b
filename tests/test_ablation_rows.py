"""The rows that `lesionpipe ablation` plans: valid parameters, the documents' commands, names, refusals."""

import pytest
from ruamel.yaml import YAML

from lesionpipe.commands.ablation import planned_runs, run_words
from lesionpipe.commands.ablation_rows import FINER, PAPER
from lesionpipe.core.errors import UserError


@pytest.fixture
def own(root):
    """What params.yaml holds, with a seed of its own."""
    values = YAML(typ="safe", pure=True).load((root / "params.yaml").read_text())
    values["train"]["seed"] = 7
    return values


def plan_of(own, table=PAPER, seeds=1, **settings):
    return planned_runs(table, seeds, own, {name.replace("__", "."): word for name, word in settings.items()})


def test_the_commands_of_the_papers_rows_stand_in_the_readme(root, own):
    for planned in plan_of(own):
        assert " ".join(run_words(planned)) in (root / "README.md").read_text()


def test_the_finer_rows_stand_in_the_docs_with_their_commands_and_what_they_are_compared_with(root, own):
    page = (root / "docs/evaluate.md").read_text()
    for planned in plan_of(own, FINER):
        row, reference = planned.row, FINER[planned.row]
        assert reference is None or f"\n| `{row}` | `{reference}` |" in page, row
        assert row in PAPER or f"\n{' '.join(run_words(planned))}\n" in page, row


def test_runs_with_seeds_are_named_and_all_rows_come_before_the_next_seed(own):
    plan = plan_of(own, seeds=2)
    assert [p.name for p in plan] == [*PAPER, *(f"{row}-seed1" for row in PAPER)]
    assert [(p.seed, p.switches["train.seed"]) for p in plan] == [(0, "0")] * 4 + [(1, "1")] * 4
    assert run_words(plan[4])[3:7] == ["--name", "original-seed1", "-S", "anchors.use=default"]
    one = plan_of(own)  # the seed stays as it is
    assert [p.name for p in one] == list(PAPER) and {p.seed for p in one} == {7}
    assert all("train.seed" not in p.switches for p in one)


def test_the_rows_are_those_of_the_papers_table(own):
    rows = [planned.expected for planned in plan_of(own)]
    assert [r["anchors.use"] for r in rows] == ["default", "searched", "searched", "searched"]
    assert [r["network.levels"] for r in rows] == ["P3-P7", "P3-P7", "P2-P6", "P2-P6"]
    assert [r["network.mask_branch"] for r in rows] == [False, False, True, True]
    assert [r["network.attention"] for r in rows] == [False, False, False, True]
    assert list(PAPER.values()) == [None, *list(PAPER)[:3]]


def test_a_finer_row_moves_one_thing(own):
    """Every step of the finer table changes a single parameter: that is what tells them apart."""
    rows = {planned.row: planned.expected for planned in plan_of(own, FINER)}
    moved = {
        row: [name for name in rows[row] if rows[row][name] != rows[reference][name]]
        for row, reference in FINER.items()
        if reference
    }
    assert moved == {
        "anchor-optimisation": ["anchors.use"],
        "p2": ["network.levels"],
        "masks-uncalibrated": ["network.mask_branch", "detect.calibrate"],  # which does nothing without masks
        "dense-supervision": ["detect.calibrate"],
        "gates-pyramid": ["network.attention"],
        "gates-mask": ["network.attention"],
        "attention-gate": ["network.attention"],
        "gates-uncalibrated": ["detect.calibrate"],
        "trimap-paper": ["masks.background_ellipse_factor"],
        "ellipses": ["masks.method"],
        "p2-default-anchors": ["anchors.use"],
    }


def test_parameters_of_all_rows_stand_in_commands_and_names(own):
    plan = plan_of(own, {"p2": None}, seeds=2, train__epochs="8", network__windows="[]")
    assert [p.name for p in plan] == [
        "p2-network.windows=__,train.epochs=8",
        "p2-network.windows=__,train.epochs=8-seed1",
    ]
    assert run_words(plan[0])[-6:] == ["-S", "train.epochs=8", "-S", "network.windows=[]", "-S", "train.seed=0"]
    assert (plan[0].expected["train.epochs"], plan[0].expected["network.windows"]) == (8, [])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"train__epoch": "8"}, "--set train.epoch: no parameter of params.yaml on which results depend"),
        ({"runtime__workers": "1"}, "--set runtime.workers: no parameter of params.yaml on which"),
        ({"train__epochs": "many"}, "row original: train.epochs = 'many': input should be a valid integer"),
        ({"train__seed": "3"}, "--set train.seed: --seeds sets it"),
        ({"detect__calibrate": "false"}, "--set detect.calibrate: masks-uncalibrated sets it"),
        ({"masks__method": "ellipse"}, "--set masks.method: ellipses sets it"),
    ],
)
def test_parameters_of_all_rows_that_cannot_be_are_refused(own, settings, words):
    with pytest.raises(UserError, match=words):
        plan_of(own, FINER, **settings)


def test_a_row_that_is_the_same_as_another_is_refused(own):
    own["masks"]["method"] = "ellipse"
    with pytest.raises(UserError, match="row ellipses is the same as attention-gate"):
        plan_of(own, FINER)
    assert len(plan_of(own, {"ellipses": "attention-gate"})) == 1
