"""The report: which slices are shown and how they are judged, and the page itself in a real browser."""

import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from lesionpipe.evaluate.froc import Matches
from lesionpipe.evaluate.published import published_table
from lesionpipe.evaluate.report import page as report_page
from lesionpipe.evaluate.report.gallery import choose_slices, grey_levels, slice_pictures, verdicts
from lesionpipe.evaluate.report.page import write_report
from lesionpipe.evaluate.split import evaluate_split
from lesionpipe.evaluate.truth import Detections, Truth
from lesionpipe.params import load_params

HOSTILE = '</script><script>window.broken=1</script><img src=x onerror="window.broken=1">.png'
SCRIPT = Path(report_page.__file__).with_name("report.js")
TYPES = ["liver", "lung", "<b>bone</b>"]


def small_truth():
    """Three images: a found lesion and a missed one; a false positive; nothing."""
    truth = Truth(("a", "b", "c"), np.array([0, 1, 2]), np.array([0, 0]), np.zeros((2, 4)))
    detections = Detections(np.array([0, 1, 1]), np.zeros((3, 4)), np.array([0.9, 0.8, 0.1]))
    return truth, detections, Matches(np.array([0]), np.array([1]))


def test_verdicts_by_hand():
    a, b, c = verdicts(*small_truth(), threshold=0.5)
    assert (a.lesions.tolist(), a.found.tolist(), a.detections.tolist(), a.hit.tolist()) == (
        [0, 1],
        [False, True],
        [0],
        [True],
    )
    assert (b.lesions.tolist(), b.detections.tolist(), b.hit.tolist()) == ([], [1], [False])
    assert (c.lesions.tolist(), c.detections.tolist()) == ([], [])


def test_without_a_threshold_nothing_is_kept():
    assert all(len(v.detections) == 0 for v in verdicts(*small_truth(), threshold=float("nan")))


class Counted(np.ndarray):
    """An array that counts the elements that are computed or compared with it, or with what is made of it."""

    elements = 0

    def __array_ufunc__(self, ufunc, method, *inputs, **options):
        plain = [value.view(np.ndarray) if isinstance(value, Counted) else value for value in inputs]
        result = getattr(ufunc, method)(*plain, **options)
        Counted.elements += max(np.size(value) for value in plain)
        return result.view(Counted) if isinstance(result, np.ndarray) else result


def random_set(random: np.random.Generator, images: int) -> tuple[Truth, Detections, Matches]:
    """A lesion and two detections an image on average, half of these on a lesion of any image."""
    places, found = (random.integers(images, size=n).view(Counted) for n in (images, 2 * images))
    truth = Truth(tuple(map(str, range(images))), np.arange(images), places, np.zeros((images, 4)))
    detections = Detections(found, np.zeros((2 * images, 4)), random.permutation(2 * images) / images)
    return truth, detections, Matches(random.permutation(2 * images)[:images], random.integers(images, size=images))


@pytest.mark.parametrize("images", [0, 1, 7, 40])
def test_verdicts_are_those_of_looking_at_everything_for_each_image(images):
    truth, detections, matches = random_set(np.random.default_rng(images), images)
    found = verdicts(truth, detections, matches, threshold=0.7)
    assert [verdict.image for verdict in found] == list(range(images))
    hit_lesions = matches.lesion[detections.scores[matches.detection] >= 0.7]
    for image, verdict in enumerate(found):
        assert verdict.lesions.tolist() == [n for n, place in enumerate(truth.lesion_images) if place == image]
        assert verdict.found.tolist() == [n in hit_lesions for n in verdict.lesions]
        kept = [n for n in np.flatnonzero(detections.images == image) if detections.scores[n] >= 0.7]
        assert verdict.detections.tolist() == sorted(kept, key=lambda n: -detections.scores[n])
        assert verdict.hit.tolist() == [n in matches.detection for n in verdict.detections]
        assert verdict.worst == max([detections.scores[n] for n in kept if n not in matches.detection], default=0)


def test_verdicts_compare_no_image_with_the_lesions_and_detections_of_the_others():
    """It was 4,831 images times 480,000 detections for DeepLesion's test split."""
    Counted.elements = 0
    verdicts(*random_set(np.random.default_rng(0), 500), threshold=0.0)
    assert Counted.elements < 10 * 500  # it was 500 * (500 + 1000)


def test_misses_and_false_positives_are_chosen_before_empty_slices():
    judged = verdicts(*small_truth(), threshold=0.5)
    strata = pd.Series(["liver", "lung"])
    assert sorted(v.image for v in choose_slices(judged, strata, 2)) == [0, 1]
    assert sorted(v.image for v in choose_slices(judged, strata, 9)) == [0, 1, 2]
    assert choose_slices(judged, strata, 0) == []
    assert [v.image for v in choose_slices(judged, strata, 1)] == [0]


def test_window_by_hand():
    assert grey_levels(np.array([[-200, -160, 40, 240, 900]]), -160, 240).tolist() == [[0, 0, 128, 255, 255]]
    assert set(slice_pictures(np.zeros((8, 8), np.int16))) == {"soft tissue", "lung", "bone"}


@pytest.fixture(scope="module")
def page(tmp_path_factory, root):
    """A report on twelve noise slices, one with a hostile file name, with hits, misses and false positives."""
    settings = load_params(root / "params.yaml").evaluate.model_copy(update={"bootstrap": 20, "report_slices": 12})
    rng = np.random.default_rng(0)
    names = [f"{i:06d}_01_01_001.png" for i in range(1, 12)] + [HOSTILE]
    index = pd.DataFrame({"file_name": names, "split": "test", "patient": range(1, 13)})
    index[["scale_x", "scale_y"]] = 1.0
    corners = ["x1_original_px", "y1_original_px", "x2_original_px", "y2_original_px"]
    lesions = pd.DataFrame(
        {
            "lesion": range(1, 13),
            "file_name": names,
            "split": "test",
            "noisy": 0,
            "type": [TYPES[i % 3] for i in range(12)],
            "long_diameter_mm": [5.0, 20, 40, np.nan] * 3,
            "slice_interval_mm": 5.0,
        }
    )
    lesions[corners] = [[10, 10, 30, 30]] * 12
    found = lesions.iloc[:8][["split", "file_name", *corners]].assign(score=np.linspace(0.9, 0.5, 8))
    false = lesions.iloc[4:10][["split", "file_name", *corners]].assign(score=np.linspace(0.85, 0.3, 6))
    false[corners] = [[40, 40, 60, 55]] * 6
    result = evaluate_split("test", index, lesions, pd.concat([found, false], ignore_index=True), settings)
    store = SimpleNamespace(index=index, slices=lambda i: rng.integers(-200, 300, (3, 64, 64)).astype(np.int16))
    heatmaps = {names[0]: np.full((16, 16), 200, np.uint8)}
    folder = tmp_path_factory.mktemp("report") / "report"
    published = published_table(0.5, list(result.size_groups), same_data=False)
    write_report(folder, f"phantom {HOSTILE}", [result], store, heatmaps, published, settings)
    return folder / "index.html"


def test_the_page_is_self_contained_and_hostile_strings_stay_text(page):
    text = page.read_text()
    assert "window.broken=1</script>" not in text.replace("\\u003c", "")
    assert not re.search(r'(?:src|href)="(?!data:|#)', text)
    assert not re.search(r"url\((?!#)|@import|fetch\(|XMLHttpRequest", text)
    data = json.loads(re.search(r'id="slices">(.*?)</script>', text, re.S).group(1))
    assert len(data) == 12
    assert any(card["file_name"] == HOSTILE for card in data)


@pytest.fixture(scope="module")
def browser():
    webdriver = pytest.importorskip("selenium.webdriver")
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (chromium and driver):
        pytest.skip("needs chromium and chromedriver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-background-networking",
        "--no-first-run",
        "--disable-sync",
        "--disable-component-update",
        "--window-size=1280,1400",
    ):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    session = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield session
    session.quit()


def choose_option(browser, control, value):
    browser.execute_script(
        "const c = document.getElementById(arguments[0]); c.value = arguments[1]; c.dispatchEvent(new Event('change'))",
        control,
        value,
    )


def shown(browser):
    return browser.execute_script(
        "return [...document.querySelectorAll('.card p:first-of-type')].map(p => p.textContent)"
    )


def test_type_and_verdict_are_asked_of_one_lesion(browser):
    """A liver lesion is missed and a lung lesion found on one slice; another slice has no lesion."""

    def lesion(kind, found):
        return {"box": [1, 1, 3, 3], "type": kind, "group": kind, "mm": 5, "size": "5 mm", "found": found}

    card = {"side": 8, "windows": {"w": ""}, "heat": None, "detections": []}
    cards = [
        card | {"file_name": "both", "lesions": [lesion("liver", False), lesion("lung", True)]},
        card | {"file_name": "none", "lesions": []},
    ]
    controls = "".join(f"<select id={name}></select>" for name in ("type", "size", "show", "sort", "window"))
    browser.get("about:blank")
    browser.execute_script(
        "document.body.innerHTML = arguments[0]; document.getElementById('slices').textContent = arguments[1];"
        "const options = {type: [''], size: [''], show: ['all', 'misses', 'hits'], sort: ['name'], window: ['w']};"
        "for (const [id, values] of Object.entries(options))"
        " document.getElementById(id).append(...values.map((v) => new Option(v, v)));"
        "(0, eval)(arguments[2])",
        f"{controls}<input id=boxes><input id=heat><output id=count></output><div id=gallery></div>"
        "<div hidden id=slices></div>",
        json.dumps(cards),
        SCRIPT.read_text(),
    )
    assert shown(browser) == ["both", "none"]
    for show, kind, names in (
        ("misses", "liver", ["both"]),
        ("misses", "lung", []),
        ("hits", "lung", ["both"]),
        ("hits", "liver", []),
        ("all", "lung", ["both"]),
    ):
        choose_option(browser, "show", show)
        choose_option(browser, "type", kind)
        assert shown(browser) == names


def test_the_page_fits_a_narrow_window(page, browser):
    browser.set_window_size(600, 900)
    browser.get(page.as_uri())
    assert browser.execute_script("return document.documentElement.scrollWidth <= window.innerWidth")
    browser.set_window_size(1280, 1400)


def test_the_page_works_in_a_browser(page, browser):
    browser.get(page.as_uri())
    assert len(shown(browser)) == 12
    loaded = "return [...document.images].every(i => i.complete && i.naturalWidth > 0)"
    assert browser.execute_script(loaded)
    choose_option(browser, "show", "misses")
    missed = shown(browser)
    assert 0 < len(missed) < 12
    choose_option(browser, "type", "lung")
    assert 0 < len(shown(browser)) < len(missed)
    choose_option(browser, "type", "")
    choose_option(browser, "show", "all")
    choose_option(browser, "sort", "kind")
    kinds = browser.execute_script(
        "return [...document.querySelectorAll('.facts:nth-of-type(2)')].map(p => p.textContent)"
    )
    assert [kind.split()[0] for kind in kinds] == sorted(kind.split()[0] for kind in kinds)
    before = browser.execute_script("return document.querySelector('.card img.base').src")
    choose_option(browser, "window", "lung")
    assert browser.execute_script("return document.querySelector('.card img.base').src") != before
    assert browser.execute_script(loaded)
    choose_option(browser, "sort", "name")
    assert shown(browser) == sorted(shown(browser))
    assert browser.execute_script("return window.broken") is None
    assert [entry for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")] == []


def test_published_numbers_of_other_data_show_when_asked_for(page, browser):
    """Beside a phantom they are hidden, and named as other data in the figure itself."""
    browser.get(page.as_uri())
    visible = (
        "return [...document.querySelectorAll('.plots svg')].filter(s => s.checkVisibility())"
        ".map(s => [s.textContent.includes('3DCE'), s.textContent.includes('other data')])"
    )
    assert not browser.execute_script("return document.getElementById('published').checked")
    assert browser.execute_script(visible) == [[False, False]] * 2
    browser.find_element("id", "published").click()
    assert browser.execute_script(visible) == [[True, True]] * 2
