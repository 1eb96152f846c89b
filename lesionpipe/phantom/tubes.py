"""Tubes and specks of one patient: vessels and airways along their courses, vessel trees, bowel loops, lymph nodes.

`courses.json` holds u, v, t and the radius in mm of each key point of a tube (relative coordinates: see `trunk.py`).
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.random import Generator

from lesionpipe.phantom.canvas import pieces, read_table
from lesionpipe.phantom.trunk import Body

COURSES = read_table("courses.json", dict[str, list[tuple[float, float, float, float]]])
STEP_MM = 9.0  # length of the straight pieces of a curved course


@dataclass(frozen=True)
class Tubes:
    """Straight pieces of vessel, airway or bowel in three dimensions, mm."""

    ends: np.ndarray  # (n, 2, 3)
    radii: np.ndarray  # (n,)

    @cached_property
    def _levels(self) -> tuple[np.ndarray, np.ndarray]:
        """Lowest and highest z of each piece, (n,)."""
        return self.ends[..., 2].min(axis=1), self.ends[..., 2].max(axis=1)

    def cut(self, z: float, shrink: float = 0.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Sections with the plane at z: in-plane ends (m, 2, 2), radii (m,), and which pieces they come from (m,).

        A piece that crosses steeply leaves a disc, an oblique one a capsule of the ellipse's length, one within the
        plane a band. `shrink` mm are taken off the radius (the lumen of a wall).
        """
        low, high = self._levels
        away = np.maximum(np.maximum(low - z, z - high), 0)
        which = np.flatnonzero(away < self.radii - shrink)
        start, step = self.ends[which, 0], self.ends[which, 1] - self.ends[which, 0]
        away, radii = away[which], self.radii[which] - shrink
        rise = np.where(np.abs(step[:, 2]) < 1e-6, 1e-6, step[:, 2])
        reach = radii * np.tan(np.arctan2(np.hypot(step[:, 0], step[:, 1]), np.abs(rise)) / 2)
        at = np.stack([(z - reach - start[:, 2]) / rise, (z + reach - start[:, 2]) / rise], axis=1)
        ends = start[:, None, :2] + np.clip(at, 0, 1)[..., None] * step[:, None, :2]
        return ends, np.sqrt(radii**2 - away**2), which


def _join(tubes: list[Tubes]) -> Tubes:
    return Tubes(np.concatenate([t.ends for t in tubes]), np.concatenate([t.radii for t in tubes]))


def courses(rng: Generator, body: Body) -> dict[str, Tubes]:
    """All named courses with one patient's variation."""
    made = {}
    for name, keys in COURSES.items():
        u, v, t, radii = np.array(keys).T
        shift = rng.normal(0, 0.015, 2)
        path, radii = _smooth(body.point(u + shift[0], v + shift[1], t), radii * body.organ * rng.normal(1, 0.08))
        if name == "colon":  # haustra
            radii = radii * rng.uniform(0.78, 1.15, len(radii))
        made[name] = _chain(path, radii)
    return made


def _smooth(points: np.ndarray, radii: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A course through key points (n, 3), cut into pieces of about STEP_MM with rounded corners."""
    length = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])
    at = np.linspace(0, length[-1], max(int(length[-1] / STEP_MM), 2) + 1)
    path = np.stack([np.interp(at, length, points[:, i]) for i in range(3)], axis=1)
    for _ in range(2):
        path[1:-1] = (path[:-2] + 2 * path[1:-1] + path[2:]) / 4
    return path, np.interp(at, length, radii)


def _chain(path: np.ndarray, radii: np.ndarray) -> Tubes:
    return Tubes(pieces(path), (radii[:-1] + radii[1:]) / 2)


def vessel_trees(rng: Generator, body: Body) -> dict[str, Tubes]:
    """The vessels within lungs, liver and mesentery."""
    a, b = body.cavity(0.6)
    reach = np.array([0.75 * a, 1.25 * b, 0.75 * body.level_mm])
    lungs = [_tree(rng, body.point(side * 0.27, 0.0, 0.5), reach, 28, 5, 3.6) for side in (-1, 1)]
    a, b = body.cavity(1.2)
    reach = np.array([0.75 * a, 1.2 * b, 0.5 * body.level_mm])
    return {
        "lung_vessels": _join(lungs),
        "liver_vessels": _tree(rng, body.point(-0.38, -0.02, 1.22), reach, 11, 4, 4.2),
        "mesenteric": _tree(rng, body.point(0.0, -0.12, 1.75), reach * [0.9, 0.5, 1.3], 14, 4, 2.6),
    }


def _tree(rng: Generator, root: np.ndarray, reach: np.ndarray, stems: int, generations: int, radius: float) -> Tubes:
    """A branching tree from `root` that fills the ellipsoid of half axes `reach` (mm) around it.

    `stems` branches of `radius` mm leave the root, and each splits into two thinner ones in every generation.
    """
    start = np.repeat(root[None], stems, axis=0)
    heading = rng.normal(size=(stems, 3))
    heading /= np.linalg.norm(heading, axis=1, keepdims=True)
    radii, made = np.full(stems, radius) * rng.uniform(0.7, 1.1, stems), []
    for generation in range(generations):
        share = rng.uniform(0.22, 0.38, (len(start), 1)) * 0.85**generation
        end = start + heading * reach * share
        made.append(Tubes(np.stack([start, end], axis=1), radii))
        start, radii = np.repeat(end, 2, axis=0), np.repeat(radii, 2) * rng.uniform(0.68, 0.85, 2 * len(radii))
        heading = np.repeat(heading, 2, axis=0) + rng.normal(0, 0.45, (len(start), 3))
        heading /= np.linalg.norm(heading, axis=1, keepdims=True)
    return _join(made)


def small_bowel(rng: Generator, body: Body, loops: int, pieces_of_loop: int = 15) -> tuple[Tubes, np.ndarray]:
    """Loops that wander through the belly, and for each piece the loop it belongs to (n,)."""
    low, high, stride = np.array([[-0.6, -0.75, 1.5], [0.62, 0.15, 2.62], [0.16, 0.22, 0.08]])
    made = []
    for _ in range(loops):
        path, heading = [rng.uniform([-0.5, -0.55, 1.6], [0.5, 0.05, 2.55])], rng.normal(size=3)
        for _ in range(pieces_of_loop):
            heading = 0.75 * heading / np.linalg.norm(heading) + rng.normal(0, 0.45, 3)
            ahead = path[-1] + heading * stride
            heading = np.where((ahead < low) | (ahead > high), -heading, heading)
            path.append(np.clip(path[-1] + heading * stride, low, high))
        radii = rng.uniform(9, 13.5) * rng.uniform(0.85, 1.1, pieces_of_loop + 1)
        made.append(_chain(body.point(*np.array(path).T), radii))
    return _join(made), np.repeat(np.arange(loops), pieces_of_loop)


def lymph_nodes(rng: Generator, body: Body, number: int = 110) -> Tubes:
    """Normal nodes: short ovals of 4 to 7 mm in the fat of mediastinum, mesentery, armpits and groins."""
    middle = np.stack([rng.normal(0, 0.3, number), rng.uniform(-0.6, 0.35, number), rng.uniform(0.1, 2.9, number)])
    u, v = rng.choice([-1, 1], number) * rng.uniform(0.75, 1.15, number), rng.uniform(-0.9, 0.2, number)
    sides = np.stack([u, v, rng.choice([0.15, 2.75], number) + rng.normal(0, 0.15, number)])
    start = body.point(*np.where(rng.random(number) < 0.5, middle, sides))
    return _specks(rng, start, 2.2, (1.7, 3.3))


def calcifications(rng: Generator, body: Body, number: int = 60) -> Tubes:
    """Specks of calcium, mostly along the aorta."""
    anywhere = rng.uniform([-0.8, -0.7, 0.2], [0.8, 0.7, 2.9], (number, 3)).T
    aorta = np.stack([np.full(number, 0.07), np.full(number, 0.27), rng.uniform(0.4, 2.1, number)])
    start = body.point(*np.where(rng.random(number) < 0.75, aorta, anywhere))
    return _specks(rng, start + rng.normal(0, 8, (number, 3)) * [1, 1, 0], 2.0, (0.8, 1.6))


def _specks(rng: Generator, start: np.ndarray, length: float, radii: tuple[float, float]) -> Tubes:
    ends = np.stack([start, start + rng.normal(0, length, start.shape)], axis=1)
    return Tubes(ends, rng.uniform(*radii, len(start)))
