"""GrabCut and its guards: a disc that must be found, and inputs that make others crash."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lesionpipe.mask_quality.quality import dice
from lesionpipe.masks import grabcut
from lesionpipe.masks.grabcut import NoMask
from lesionpipe.masks.methods import FALLBACKS, LesionMask, WeakLabel, dilation_radius, make_mask
from lesionpipe.params import Masks

SIDE = 96
MARGIN = (5.0, 5.0)
WINDOW = (-175.0, 275.0)


def masks(method: str = "grabcut", **changes) -> Masks:
    usual = {"crop_margin": 1.0, "background_ellipse_factor": 1.3, "full_slice": False, "iterations": 3}
    return Masks(method=method, **usual | changes)


def superellipse(centre: tuple[float, float], half: tuple[float, float], power: float = 4) -> np.ndarray:
    y, x = np.mgrid[:SIDE, :SIDE]
    return np.abs((x - centre[0]) / half[0]) ** power + np.abs((y - centre[1]) / half[1]) ** power <= 1


def picture(mask: np.ndarray, seed: int = 0) -> np.ndarray:
    """A lesion of 100 HU in 40 HU with noise of 10 HU and a blurred edge: int16 (SIDE, SIDE)."""
    noise = np.random.default_rng(seed).normal(0, 10, mask.shape)
    return np.rint(40 + 60 * cv2.GaussianBlur(mask.astype(np.float32), (0, 0), 0.7) + noise).astype(np.int16)


def label(x1: float, y1: float, x2: float, y2: float, window: tuple[float, float] = WINDOW) -> WeakLabel:
    """A label whose long diameter runs along x and whose short one runs along y through the middle."""
    x, y = (x1 + x2) / 2, (y1 + y2) / 2
    points = np.array([[x1, y], [x2, y], [x, y1], [x, y2]])
    return WeakLabel(np.array([x1 - 5, y1 - 5, x2 + 5, y2 + 5]), points, window, MARGIN)


def full(made: LesionMask) -> np.ndarray:
    return made.on_slice(SIDE)


def test_grabcut_finds_a_shape_that_the_ellipse_misses() -> None:
    true = superellipse((48, 40), (16, 11))  # bulges out of its RECIST ellipse
    hu, weak = picture(true), label(32, 29, 64, 51)
    found = make_mask(hu, weak, masks())
    assert (found.method, found.reason) == ("grabcut", "")
    assert dice(full(found), true) > 0.94
    assert dice(full(make_mask(hu, weak, masks("ellipse"))), true) < 0.93


def test_a_small_lesion_does_not_shrink_to_its_seeds() -> None:
    true = superellipse((48.3, 40.6), (4.2, 3.4), 2)
    found = make_mask(picture(true), label(44, 37, 52, 44), masks())
    assert found.method == "grabcut"
    assert dice(full(found), true) > 0.85


def test_the_full_slice_and_the_papers_trimap_work_too() -> None:
    true = superellipse((48, 40), (16, 11))
    found = make_mask(picture(true), label(32, 29, 64, 51), masks(full_slice=True, background_ellipse_factor=None))
    assert found.method == "grabcut"
    assert dice(full(found), true) > 0.94


@pytest.mark.parametrize("method", ["grabcut", "ellipse", "quarter-ellipses", "box-dilation"])
def test_every_method_makes_its_own_mask(method: str) -> None:
    true = superellipse((48, 40), (16, 11), 2)
    found = make_mask(picture(true), label(32, 29, 64, 51), masks(method))
    assert (found.method, found.reason) == (method, "")
    assert dice(full(found), true) > 0.9


def test_the_same_mask_on_any_number_of_threads_and_any_run() -> None:
    hu, weak = picture(superellipse((48, 40), (16, 11))), label(32, 29, 64, 51)
    first = make_mask(hu, weak, masks())
    threads = cv2.getNumThreads()
    try:
        cv2.setNumThreads(4)
        cv2.setRNGSeed(99)
        again = make_mask(hu, weak, masks())
        assert cv2.getNumThreads() == 4  # left as found
    finally:
        cv2.setNumThreads(threads)
    assert np.array_equal(full(first), full(again))


def test_the_part_with_the_seeds_is_kept_and_its_holes_are_filled() -> None:
    mask = np.zeros((9, 12), bool)
    mask[1:6, 1:6] = True
    mask[2, 3] = False  # a hole
    mask[1:9, 8:12] = True  # larger, but without seeds
    seeds = np.zeros_like(mask)
    seeds[4, 2:5] = True
    found = grabcut.seeded_component(mask, seeds)
    assert np.argwhere(found).min(axis=0).tolist() == [1, 1]
    assert found.sum() == 25


def test_smoothing_cuts_spurs_and_fills_notches_narrower_than_the_disc() -> None:
    mask = np.zeros((24, 24), bool)
    mask[6:18, 6:18] = True
    rough = mask.copy()
    rough[2:6, 11] = True  # a spur
    rough[14:18, 11] = False  # a notch
    smooth = grabcut.smoothed(rough, 2)
    assert not smooth[2:5].any()  # but for the tip of the disc
    assert smooth[14:16, 11].all()  # its mouth stays rounded
    assert np.array_equal(grabcut.smoothed(rough, 0.4), rough)


@pytest.mark.parametrize(("side", "factor"), [(1, 8), (12, 4), (13, 4), (47, 2), (48, 1), (300, 1)])
def test_pixels_are_divided_until_the_box_is_48_wide(side: float, factor: int) -> None:
    assert grabcut.refinement(np.array([10, 10, 10 + side, 400.0])) == factor


@pytest.mark.parametrize(
    ("change", "method", "reason"),
    [
        ({"points": None}, "box-ellipse", "no RECIST points"),
        ({"points": np.full((4, 2), np.nan)}, "box-ellipse", "no RECIST points"),
        ({"points": np.array([[5.0, 5], [9, 5], [7, 3], [7, 7]])}, "box-ellipse", "RECIST points outside the box"),
        ({"points": np.full((4, 2), 48.0)}, "box-ellipse", "no foreground seeds"),
        ({"points": np.array([[40.0, 40], [56, 40], [44, 40], [52, 40]])}, "ellipse", "no foreground seeds"),
    ],
    ids=["none", "nan", "outside", "coincident", "collinear"],
)
def test_points_that_are_no_cross_have_a_fallback(change: dict, method: str, reason: str) -> None:
    true = superellipse((48, 40), (16, 11))
    found = make_mask(picture(true), label(32, 29, 64, 51)._replace(**change), masks())
    assert (found.method, found.reason) == (method, reason)
    assert found.mask.any()


def test_a_constant_image_gives_the_ellipse() -> None:
    found = make_mask(np.full((SIDE, SIDE), 40, np.int16), label(32, 29, 64, 51), masks())
    assert (found.method, found.reason) == ("ellipse", "constant image")


def test_an_image_that_says_nothing_else_than_the_seeds_gives_the_ellipse() -> None:
    hu = np.full((SIDE, SIDE), 40, np.int16)
    hu[38:43, 44:53] = 200  # bright only well within the quadrilateral
    found = make_mask(picture(hu > 100), label(28, 25, 68, 55), masks())
    assert (found.method, found.reason) == ("ellipse", "area below proportion to the RECIST ellipse")


@pytest.mark.parametrize("window", [(np.nan, np.nan), (275.0, -175.0), (40.0, 40.0)], ids=["nan", "falling", "empty"])
def test_an_unusable_window_is_replaced(window: tuple[float, float]) -> None:
    hu, box = picture(superellipse((48, 40), (16, 11))), (32, 29, 64, 51)
    usual = make_mask(hu, label(*box), masks())
    assert np.array_equal(full(make_mask(hu, label(*box, window=window), masks())), full(usual))


def test_a_window_that_clips_what_is_to_be_decided_is_widened() -> None:
    assert grabcut.widened_window(WINDOW, np.array([-900, -850, -800, 40])) == (pytest.approx(-897), 275)
    assert grabcut.widened_window(WINDOW, np.array([-900, 30, 35, 40])) == WINDOW
    assert grabcut.widened_window(WINDOW, np.array([])) == WINDOW


def test_seeds_of_one_kind_only_are_refused_before_opencv() -> None:
    image = np.arange(36, dtype=np.uint8).reshape(6, 6)
    for value, reason in ((1, "no background seeds"), (0, "no foreground seeds")):
        trimap = np.full((6, 6), value, np.uint8)
        with pytest.raises(NoMask, match=reason):
            grabcut.segment(image, trimap, trimap > 0, 1, 0)


def test_an_error_of_opencv_becomes_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_) -> None:
        raise cv2.error("totCount > 0")

    monkeypatch.setattr(cv2, "grabCut", fail)
    found = make_mask(picture(superellipse((48, 40), (16, 11))), label(32, 29, 64, 51), masks())
    assert found.method == "ellipse"
    assert "OpenCV" in found.reason


def test_a_coarse_pixel_is_kept_from_half_cover_on_and_the_last_one_never_lost() -> None:
    fine = np.zeros((4, 4), bool)
    fine[0, :2] = fine[2, 2] = True  # covers: 2/4 and 1/4
    assert grabcut.coarsened(fine, 2).tolist() == [[True, False], [False, False]]
    fine[0, :2] = False
    assert grabcut.coarsened(fine, 2).tolist() == [[False, False], [False, True]]


def test_the_dilation_of_a_round_lesion_is_a_tenth_of_its_diameter() -> None:
    assert dilation_radius(label(30, 30, 50, 50).points) == pytest.approx(2.0)


coordinate = st.floats(-30, SIDE + 30)
points = st.none() | st.lists(st.tuples(coordinate, coordinate), min_size=4, max_size=4)


@settings(max_examples=120, deadline=None)
@given(
    box=st.tuples(coordinate, coordinate, coordinate, coordinate),
    points=points,
    window=st.tuples(st.floats(-2000, 2000) | st.just(np.nan), st.floats(-2000, 2000)),
    method=st.sampled_from(["grabcut", "ellipse", "quarter-ellipses", "box-dilation"]),
    factor=st.sampled_from([None, 1.0, 1.3]),
    kind=st.sampled_from(["noise", "constant", "two values"]),
    inside=st.booleans(),
)
def test_any_label_gives_a_mask_within_the_slice(box, points, window, method, factor, kind, inside) -> None:
    box = np.array(box)
    found_points = None if points is None else np.array(points)
    if inside and points is not None:  # most random points lie outside their box: bring them in
        low, high = np.sort(box.reshape(2, 2), axis=0)
        found_points = low + (found_points + 30) / (SIDE + 60) * (high - low)
    rng = np.random.default_rng(0)
    hu = {"noise": rng.normal(0, 200, (SIDE, SIDE)), "constant": np.zeros((SIDE, SIDE))}.get(kind)
    hu = rng.integers(0, 2, (SIDE, SIDE)) * 300 if hu is None else hu
    weak = WeakLabel(box, found_points, window, MARGIN)
    found = make_mask(hu.astype(np.int16), weak, masks(method, background_ellipse_factor=factor, crop_margin=0.5))
    height, width = found.mask.shape
    assert found.mask.any()
    assert found.x0 >= 0 <= found.y0
    assert found.x0 + width <= SIDE >= found.y0 + height
    assert found.mask.any(axis=0)[[0, -1]].all()  # cut to its extent
    assert found.mask.any(axis=1)[[0, -1]].all()
    assert found.method == method or found.method in FALLBACKS
    assert (found.method == method) == (found.reason == "")
