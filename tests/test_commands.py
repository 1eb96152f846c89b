"""`lesionpipe froc` and `lesionpipe compare` as a user calls them."""

import io
import json
import os
import subprocess
import sys

import pandas as pd
import pytest
import typer
from dvc.repo import Repo
from small_set import FOUND, MISS, NEAR, change_params, write_found, write_small_set
from test_froc import BOX, found_of, truth_of
from typer.testing import CliRunner

from lesionpipe.commands.scoring import compare, froc, print_result
from lesionpipe.core.errors import UserError
from lesionpipe.core.formats import write_csv
from lesionpipe.evaluate.bootstrap import PatientDraws
from lesionpipe.evaluate.comparison import compare_rows, score_runs
from lesionpipe.evaluate.runs import open_runs

BETTER = [*FOUND, ("test", 5, NEAR, 0.95)]  # finds the last lesion, before any false positive


def call(command, *arguments):
    app = typer.Typer()
    app.command()(command)
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    if isinstance(result.exception, UserError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture
def folder(tmp_path, monkeypatch):
    write_small_set(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_froc_meets_the_reference_case(shared_data):
    case = shared_data / "froc_case"
    files = ("--ground-truth", case / "ground_truth.json", "--detections", case / "detections.json")
    result = json.loads(call(froc, *files, "--json", "--bootstrap", 100))
    expected = json.loads((case / "expected.json").read_text())
    assert result["sensitivity"] == pytest.approx(expected["sensitivity"], abs=1e-9)
    assert {k: result[k] for k in ("images", "lesions", "detections")} == {
        k: expected[k] for k in ("images", "lesions", "detections")
    }
    assert list(result["thresholds"]) == list(result["intervals"]) == list(expected["sensitivity"])
    assert all(low <= result["sensitivity"][rate] <= high for rate, (low, high) in result["intervals"].items())
    assert "452 lesions on 300 images" in call(froc, *files, "--bootstrap", 10)


def test_froc_without_lesions_or_draws_prints_null(tmp_path):
    (tmp_path / "gt.json").write_text('{"images": [{"id": 1}], "annotations": []}')
    (tmp_path / "dt.json").write_text("[]")
    files = ("--ground-truth", tmp_path / "gt.json", "--detections", tmp_path / "dt.json")
    result = json.loads(call(froc, *files, "--json", "--bootstrap", 0))
    assert result["sensitivity"]["0.5"] is None and result["intervals"]["0.5"] == [None, None]
    assert "–" in call(froc, *files) and "nan" not in call(froc, *files)


def test_average_precision_keeps_its_name_whatever_the_overlap(shared_data):
    case = shared_data / "froc_case"
    files = ("--ground-truth", case / "ground_truth.json", "--detections", case / "detections.json", "--bootstrap", 5)
    half, third = (json.loads(call(froc, *files, "--json", "--iou", iou)) for iou in (0.5, 0.3))
    assert list(half) == list(third) and (half["iou"], third["iou"]) == (0.5, 0.3)
    low, high = third["average_precision_interval"]
    assert half["average_precision"] < third["average_precision"] and low < high


def test_froc_draws_patients_by_the_field_that_is_named(tmp_path):
    images = [{"id": i, "case": i // 2} for i in range(4)]
    (tmp_path / "gt.json").write_text(json.dumps({"images": images, "annotations": []}))
    (tmp_path / "dt.json").write_text("[]")
    files = ("--ground-truth", tmp_path / "gt.json", "--detections", tmp_path / "dt.json", "--json")
    assert json.loads(call(froc, *files))["patients"] == 4
    assert json.loads(call(froc, *files, "--patient-key", "case"))["patients"] == 2


@pytest.mark.parametrize("encoding", ["latin-1", "ascii", "utf-8"])
def test_any_output_encoding_is_good_enough(folder, root, encoding):
    """Both tables hold dashes and signs that latin-1 and ASCII lack."""
    (folder / "gt.json").write_text('{"images": [{"id": 1}], "annotations": []}')
    (folder / "dt.json").write_text("[]")
    found = "data/detections.csv"
    for words in (["froc", "--ground-truth", "gt.json", "--detections", "dt.json"], ["compare", found, found]):
        done = subprocess.run(
            [sys.executable, "-c", "import lesionpipe.cli; lesionpipe.cli.main()", *words],
            capture_output=True,
            env={**os.environ, "PYTHONIOENCODING": encoding, "PYTHONPATH": str(root)},
        )
        assert done.returncode == 0, done.stderr.decode()
        assert b"FPs/image" in done.stdout and b"?" not in done.stdout and done.stdout.decode(encoding)


def test_signs_that_an_encoding_lacks_have_plain_ones(monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr("sys.stdout", stream)
    print_result("b − a: 61 ± 2 (50–70) …")
    stream.flush()
    assert stream.buffer.getvalue() == b"b - a: 61 +/- 2 (50-70) ...\n"


def test_noisy_lesions_are_left_out_of_a_comparison_as_params_yaml_says(folder):
    """Lesion 5, the only hit one of its slice, is noisy; the slice keeps lesion 6."""
    found = folder / "data/detections.csv"
    change_params(folder, "lesions", noisy="drop")
    result = json.loads(call(compare, found, found, "--json"))
    assert (result["images"], result["lesions"]) == (2, 2)
    assert "lesions.noisy drop" in call(compare, found, found)


def test_comparing_a_file_with_itself_finds_no_difference(folder):
    found = folder / "data/detections.csv"
    result = json.loads(call(compare, found, found, "--json"))
    assert {k: result[k] for k in ("images", "lesions", "patients")} == {"images": 2, "lesions": 3, "patients": 2}
    assert result["at"]["4"] == pytest.approx({"a": 2 / 3, "b": 2 / 3, "difference": 0, "low": 0, "high": 0, "p": 1})


def test_a_better_file_is_better(folder):
    write_found(folder / "better.csv", BETTER)
    result = json.loads(call(compare, folder / "data/detections.csv", folder / "better.csv", "--json"))["at"]["1"]
    assert (result["a"], result["b"], result["difference"]) == pytest.approx((2 / 3, 1, 1 / 3))
    assert 0 <= result["low"] <= result["difference"] <= result["high"] <= 1
    assert 0 < result["p"] <= 1
    assert "+33.33" in call(compare, folder / "data/detections.csv", folder / "better.csv")
    worse = json.loads(call(compare, folder / "better.csv", folder / "data/detections.csv", "--json"))["at"]["1"]
    assert (worse["low"], worse["high"], worse["p"]) == pytest.approx((-result["high"], -result["low"], result["p"]))


def test_a_true_difference_is_found_and_chance_is_not():
    """60 patients: A finds every second lesion, B finds all but every tenth; C finds the other half."""
    truth = truth_of([[BOX]] * 60)
    a, b, c = (
        found_of([(i, BOX, 0.9) for i in range(60) if wanted(i)])
        for wanted in (lambda i: i % 2, lambda i: i % 10, lambda i: not i % 2)
    )
    scored = [score_runs(truth, {0: found}, (1.0,), 0.5, PatientDraws(60, 500, seed=0)) for found in (a, b, c)]
    true, chance = (compare_rows(scored[0], other, seed=0) for other in scored[1:])
    assert true.difference[0] == pytest.approx(0.4) and true.low[0] > 0.2 and true.p[0] < 0.01
    assert chance.difference[0] == pytest.approx(0) and chance.low[0] < 0 < chance.high[0] and chance.p[0] > 0.5


@pytest.fixture
def repository(folder):
    """Two commits of a DVC repository: the better detections are tagged `better`, the others are HEAD."""
    git("init", "-q")
    with Repo.init() as repo:
        for message, found in (("better", BETTER), ("plain", FOUND)):
            write_found(folder / "data/detections.csv", found)
            repo.add(["data/detections.csv", "data/lesions.csv", "data/slices/01.csv"])
            git("add", "-A", "-f", "*.dvc", ".dvc", "params.yaml")
            git("-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-q", "-m", message)
            git("tag", message)
    return folder


def git(*words):
    subprocess.run(["git", *words], check=True)


def test_revisions_are_read_from_the_cache(repository):
    for file in ("detections.csv", "lesions.csv", "slices/01.csv"):
        (repository / "data" / file).unlink()
    result = json.loads(call(compare, "better", "plain", "--json"))["at"]["1"]
    assert (result["a"], result["b"]) == pytest.approx((1, 2 / 3))
    with pytest.raises(UserError, match="no-such: neither a file nor a Git revision nor an experiment"):
        open_runs(["no-such"], "test", ["01"], "keep")


def test_the_order_of_the_slices_may_differ_between_the_sides(repository):
    """The workspace lists its slices the other way round: a revision's boxes stay on their own slices."""
    index = repository / "data/slices/01.csv"
    rows = pd.read_csv(index)[::-1].assign(row=range(6))
    index.unlink()
    write_csv(index, rows)
    result = json.loads(call(compare, repository / "data/detections.csv", "better", "--json"))["at"]["4"]
    assert (result["a"], result["b"]) == pytest.approx((2 / 3, 1))


def test_a_revision_that_is_in_no_cache_is_named(repository):
    for path in (repository / ".dvc/cache").rglob("*"):
        if path.is_file():
            path.chmod(0o644)
            path.unlink()
    with pytest.raises(UserError, match="plain: its detections, lesions or slices are in no cache"):
        open_runs(["plain"], "test", ["01"], "keep")


def test_a_file_and_a_revision_of_another_set_are_not_compared(repository):
    lesions = (repository / "data/lesions.csv").read_text().splitlines(keepends=True)
    (repository / "data/lesions.csv").unlink()
    (repository / "data/lesions.csv").write_text("".join(lesions[:-1]))
    with pytest.raises(
        UserError, match=r"evaluated on different sets \(.*: 2 slices, 2 lesions; plain: 2 slices, 3 lesions\)"
    ):
        call(compare, repository / "data/detections.csv", "plain")


def test_what_cannot_be_compared_is_named(folder):
    write_found(folder / "other.csv", [("test", 0, MISS, 0.5)])
    with pytest.raises(
        UserError, match=r"other.csv: line 2: file_name '000001_01_01_010.png' is no slice of split test"
    ):
        call(compare, folder / "data/detections.csv", folder / "other.csv")
    change_params(folder, "evaluate", bootstrap=0)
    with pytest.raises(UserError, match=r"evaluate\.bootstrap = 0"):
        call(compare, "a", "b")
