"""RECIST end points as shapes: worked cases on a few pixels."""

import numpy as np
import pytest

from lesionpipe.masks import recist
from lesionpipe.masks.grabcut import TRIMAP_BACKGROUND, TRIMAP_FOREGROUND, TRIMAP_UNKNOWN
from lesionpipe.masks.methods import WeakLabel, trimap_of
from lesionpipe.masks.recist import PixelGrid

CROSS = np.array([[0.0, 4.0], [8.0, 4.0], [4.0, 2.0], [4.0, 6.0]])  # long diameter 8 along x, short 4, centre (4, 4)


def test_a_divided_pixel_has_its_centres_inside_the_pixel() -> None:
    grid = PixelGrid.over(3, 0, 1, 1, factor=2)
    assert grid.x.tolist() == [2.75, 3.25]  # pixel 3 reaches from 2.5 to 3.5
    assert grid.shape == (2, 2)


def test_the_quadrilateral_connects_the_end_points_in_turn() -> None:
    drawn = recist.draw_quadrilateral(CROSS, PixelGrid.over(0, 0, 9, 9))
    assert drawn.sum(axis=1).tolist() == [0, 0, 1, 5, 9, 5, 1, 0, 0]  # a rhombus: long and short ends take turns


def test_diameters_that_do_not_cross_give_the_convex_outline() -> None:
    apart = np.array([[0.0, 0.0], [4.0, 0.0], [1.0, 2.0], [1.0, 4.0]])  # (1, 2) lies within the triangle of the others
    drawn = recist.draw_quadrilateral(apart, PixelGrid.over(0, 0, 6, 6))
    assert drawn.sum(axis=1).tolist() == [5, 3, 2, 1, 1, 0]


@pytest.mark.parametrize("points", [[[2, 2]] * 4, [[0, 0], [4, 4], [1, 1], [3, 3]]], ids=["coincident", "collinear"])
def test_points_without_area_draw_no_quadrilateral(points: list) -> None:
    assert not recist.draw_quadrilateral(np.array(points, float), PixelGrid.over(0, 0, 6, 6)).any()


def test_the_ellipse_has_the_diameters_as_axes() -> None:
    assert recist.diameters(CROSS) == (8, 4)
    fine = recist.draw_ellipse(CROSS, PixelGrid.over(0, 0, 9, 9, factor=16))
    assert fine.sum() / 256 == pytest.approx(np.pi * 4 * 2, rel=0.01)
    doubled = recist.draw_ellipse(CROSS, PixelGrid.over(-8, -8, 25, 25, factor=8), stretch=2)
    assert doubled.sum() / 64 == pytest.approx(4 * np.pi * 8, rel=0.01)


def test_the_ellipse_turns_with_the_long_diameter() -> None:
    along_y = CROSS[:, ::-1]
    assert recist.draw_ellipse(along_y, PixelGrid.over(4, 0, 1, 9))[:, 0].sum() == 9  # all of column 4, from 0 to 8
    assert recist.draw_ellipse(along_y, PixelGrid.over(0, 4, 9, 1))[0].sum() == 5  # of row 4 only 2 to 6


LOPSIDED = np.array([[0.0, 4.0], [12.0, 4.0], [4.0, 2.0], [4.0, 10.0]])  # crossing at (4, 4), arms of 4, 8, 2 and 6


def test_quarter_ellipses_have_the_four_arms_as_half_axes() -> None:
    assert recist.crossing(LOPSIDED) == pytest.approx((1 / 3, 1 / 4))
    fine = recist.draw_quarter_ellipses(LOPSIDED, PixelGrid.over(-1, -1, 15, 15, factor=16))
    area = np.pi / 4 * (4 * 2 + 8 * 2 + 8 * 6 + 4 * 6)
    assert fine.sum() / 256 == pytest.approx(area, rel=0.01)


# turned, and with diameters that aren't perpendicular: x' = 0.8 x - 0.6 y + 9, y' = 0.6 x + y
SLANTED = LOPSIDED @ np.array([[0.8, 0.6], [-0.6, 1.0]]) + [9.0, 0.0]


@pytest.mark.parametrize("points", [CROSS, LOPSIDED, SLANTED], ids=["cross", "lopsided", "slanted"])
def test_the_outline_of_quarter_ellipses_passes_through_all_end_points_and_bulges_between(points: np.ndarray) -> None:
    """On each of the four arcs also the point at 45 degrees: c + (a + b) / sqrt(2), for the arms a and b."""
    centre = points[0] + recist.crossing(points)[0] * (points[1] - points[0])
    arms = points - centre
    outline = [*arms, *((arms[i] + arms[j]) * np.sqrt(0.5) for i in (0, 1) for j in (2, 3))]
    for arm in outline:
        for share, inside in ((0.99, True), (1.01, False)):
            place = centre + share * arm
            pixel = PixelGrid(place[:1], place[1:])
            assert recist.draw_quarter_ellipses(points, pixel).all() == inside


def test_quarter_ellipses_of_equal_arms_are_the_ellipse() -> None:
    grid = PixelGrid.over(0, 0, 9, 9, factor=8)
    assert (recist.draw_quarter_ellipses(CROSS, grid) == recist.draw_ellipse(CROSS, grid)).all()


@pytest.mark.parametrize("points", [[[0, 0], [4, 0], [1, 2], [1, 4]], [[0, 0], [4, 4], [1, 1], [3, 3]], [[2, 2]] * 4])
def test_diameters_that_do_not_cross_have_no_quarter_ellipses(points: list) -> None:
    assert recist.crossing(np.array(points, float)) is None
    assert not recist.draw_quarter_ellipses(np.array(points, float), PixelGrid.over(0, 0, 6, 6)).any()


def test_an_ellipse_without_width_is_empty() -> None:
    flat = np.array([[0.0, 4.0], [8.0, 4.0], [4.0, 4.0], [4.0, 4.0]])
    assert not recist.draw_ellipse(flat, PixelGrid.over(0, 0, 9, 9)).any()


def test_the_ellipse_in_a_box_leaves_the_margin() -> None:
    found = recist.box_points(np.array([10.0, 20.0, 40.0, 40.0]), (5.0, 5.0))
    assert found.tolist() == [[15, 30], [35, 30], [25, 25], [25, 35]]
    assert recist.diameters(recist.box_points(np.array([0.0, 0.0, 4.0, 4.0]), (5.0, 5.0))) == (1, 1)


def test_the_trimap_is_foreground_inside_background_outside_the_box_and_unknown_between() -> None:
    grid = PixelGrid.over(0, 0, 9, 9)
    label = WeakLabel(np.array([0.0, 2.0, 8.0, 6.0]), CROSS, (-175.0, 275.0), (0.0, 0.0))
    trimap = trimap_of("grabcut", label, grid, background_ellipse_factor=None)
    assert trimap[4].tolist() == [TRIMAP_FOREGROUND] * 9
    assert trimap[2].tolist() == [TRIMAP_UNKNOWN] * 4 + [TRIMAP_FOREGROUND] + [TRIMAP_UNKNOWN] * 4
    assert (trimap[1] == TRIMAP_BACKGROUND).all()


def test_a_dilated_diameter_reaches_its_radius() -> None:
    drawn = recist.draw_diameters(CROSS, PixelGrid.over(0, 0, 9, 9), 1.0)
    assert drawn[:, 0].tolist() == [False] * 3 + [True] * 3 + [False] * 3  # a px on either side of the end
    assert drawn[:, 2].sum() == 3
    assert drawn[1, 4]  # a px above the end of the short one
    assert not drawn[0, 4]
