"""The documents keep up with the code: links, parameters, commands, and a page for every stage."""

import re
import shlex
from pathlib import Path

import pytest
from dvc.repo import Repo
from dvc.utils.flatten import flatten
from imports import NEUTRAL
from ruamel.yaml import YAML
from scmrepo.git import Git
from typer.main import get_command

from lesionpipe.cli import app
from lesionpipe.commands.preset import whole_preset
from lesionpipe.params import RENAMED

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "data/README.md")] + sorted(
    (ROOT / "docs").glob("*.md")
)
WITH_OLD_NAMES = ROOT / "CHANGELOG.md"
STAGES = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())["stages"]
PARAMETERS = YAML(typ="safe").load((ROOT / "params.yaml").read_text())
ROWS_OF_VALUES = {  # rows of docs/paper.md whose cells can be read, and their parameter
    "image size": "preprocess.image_size",
    "position of the anchor in the search": "anchors.placement",
    "backbone": "network.backbone",
    "channels of the pyramid": "network.channels",
    "gradient norm clipped at": "train.gradient_clip_norm",
    "batch": "train.batch_size",
    "score threshold": "detect.score_threshold",
    "boxes per image": "detect.detections_per_image",
    "candidates per level before NMS": "detect.topk_candidates",
}
LINK = re.compile(r"\]\(([^)#\s]+)(#[^)\s]*)?\)")
OVERRIDE = re.compile(r"-S '?([a-z_]+\.[a-z_]+)=")
PARAMETER = re.compile(rf"`({'|'.join(PARAMETERS)})\.([a-z_]+)")
FILE_ENDINGS = {"csv", "json", "md", "npy", "npz", "py", "yaml"}
REPOSITORY_FILE = re.compile(
    r"`((?:lesionpipe|stages|tests|benchmarks|presets|docs|data/inputs)/[\w./-]*|core/\w+\.py|download/\w+\.py|train/\w+\.py)`"
)


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def commands_of(page: Path, program: str) -> list[list[str]]:
    """The words of each call of `program` in the page's code blocks and in backticks."""
    text = text_of(page)
    lines = [line for _, block in re.findall(r"^```(\w*)\n(.*?)^```", text, re.S | re.M) for line in block.splitlines()]
    lines += re.findall(rf"`({program} [^`]+)`", text)
    parts = [part for line in lines for part in re.split(r"&&|\|", line.split(" #")[0])]
    return [shlex.split(part) for part in parts if part.strip().startswith(f"{program} ") and "…" not in part]


@pytest.mark.parametrize("page", [*PAGES, WITH_OLD_NAMES], ids=lambda page: page.name)
def test_every_link_within_the_repository_leads_somewhere(page):
    for target, _ in LINK.findall(text_of(page)):
        assert "://" in target or (page.parent / target).exists(), f"{page.name}: {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_parameter_in_the_documents_exists(page):
    text = text_of(page)
    named = {tuple(name.split(".")) for name in OVERRIDE.findall(text)} | set(PARAMETER.findall(text))
    for section, name in named:
        assert name in FILE_ENDINGS or name in PARAMETERS.get(section, {}), f"{page.name}: {section}.{name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_of_the_repository_in_the_documents_exists(page):
    for name in REPOSITORY_FILE.findall(text_of(page)):
        if name.isupper() or "NAME" in name or "NN" in name or "SECTION" in name:
            continue  # stands for many
        assert (ROOT / name).exists() or (ROOT / "lesionpipe" / name).exists(), f"{page.name}: {name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_call_of_lesionpipe_in_the_documents_is_understood(page):
    for words in commands_of(page, "lesionpipe"):
        command = get_command(app)
        words = words[1:]
        while hasattr(command, "commands"):
            assert words and words[0] in command.commands, f"{page.name}: lesionpipe {' '.join(words)}"
            command, words = command.commands[words[0]], words[1:]
        options = {option for parameter in command.params for option in parameter.opts}
        for word in words:
            assert not word.startswith("--") or word in options, f"{page.name}: {command.name} {word}"


def test_every_preset_in_the_documents_exists():
    for page in PAGES:
        for words in commands_of(page, "lesionpipe"):
            if words[1] == "preset" and words[2:] and words[2] != "NAME":
                assert (ROOT / "presets" / f"{words[2]}.yaml").exists(), f"{page.name}: {' '.join(words)}"


def test_the_neutral_modules_are_listed_for_contributors():
    listed = text_of(ROOT / "CONTRIBUTING.md")
    for name in NEUTRAL:
        assert f"`{name.removeprefix('lesionpipe/')}`" in listed, name


def test_the_readme_stays_short():
    assert len(text_of(ROOT / "README.md").splitlines()) <= 180


def test_every_stage_has_a_page_that_the_readme_links():
    readme = text_of(ROOT / "README.md")
    for name in STAGES:
        page = {"mask_quality": "masks"}.get(name, name)
        assert f"](docs/{page}.md)" in readme and f"`{name}`" in readme, name


def test_every_page_is_linked_from_the_readme():
    readme = text_of(ROOT / "README.md")
    for page in sorted((ROOT / "docs").glob("*.md")):
        assert f"(docs/{page.name})" in readme, page.name


def test_every_output_of_a_stage_is_described_in_the_data_folder():
    described = text_of(ROOT / "data" / "README.md")
    outs = [
        out if isinstance(out, str) else next(iter(out)) for stage in STAGES.values() for out in stage.get("outs", [])
    ]
    for out in outs:
        if out.startswith("data/"):
            assert Path(out).name.replace("${item.part}", "NN") in described, out


def test_the_changelog_names_every_renamed_parameter():
    changes = text_of(WITH_OLD_NAMES)
    for name in RENAMED:
        assert f"`{name.split(' = ')[0]}`" in changes, name


@pytest.mark.parametrize(("column", "preset"), [(3, "paper"), (4, "deeplesion"), (5, "phantom")])
def test_the_paper_s_table_shows_the_presets(column, preset, monkeypatch):
    monkeypatch.chdir(ROOT)
    settings = flatten(whole_preset(preset))
    rows = [line.strip("| ").split(" | ") for line in text_of(ROOT / "docs/paper.md").splitlines() if line[:1] == "|"]
    cells = {row[0]: row[column] if row[column] != "same" else row[3] for row in rows if len(row) == 6}
    for row, name in ROWS_OF_VALUES.items():
        shown = cells[row].replace("VGG-19", "vgg19")
        value = "no clipping" if settings[name] is None else str(settings[name]).removesuffix(".0")
        assert re.search(rf"\b{re.escape(value)}\b", shown), (
            f"{row}: {shown}, but {preset} has {name}: {settings[name]}"
        )


def test_the_readme_has_the_four_rows_as_they_are_run():
    from lesionpipe.commands.ablation_rows import PAPER, ROWS

    readme = text_of(ROOT / "README.md").split("<!-- ablation -->")[1].split("<!-- /ablation -->")[0]
    for row in PAPER:
        words = " ".join(f"-S {name}={value}" for name, value in ROWS[row].items())
        assert f"--name {row} {words}" in readme, row


@pytest.mark.parametrize("folder", ["data", "data/inputs", "data/inputs/weights", "data/inputs/annotations"])
def test_dvc_finds_what_is_added_to_the_inputs(folder):
    """With `/data/*` in .gitignore DVC overlooks *.dvc files below `data/`; `/data/?*` is right."""
    assert not Git(str(ROOT)).is_ignored(f"{ROOT / folder}/"), folder


@pytest.mark.parametrize("name", ["README.md", ".gitignore"])
def test_what_is_no_input_in_the_folders_of_inputs_reruns_nothing(name):
    """`dvc add` leaves a .gitignore there, which stays when the file has gone again."""
    with Repo(str(ROOT)) as repo:
        assert repo.dvcignore.is_ignored_file(str(ROOT / "data/inputs/weights" / name))
