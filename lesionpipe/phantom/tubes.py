"""Tubes of one patient: great vessels and airways along their courses, vessel trees of lungs and liver, bowel loops."""

import numpy as np

from lesionpipe.phantom.body import Body
from lesionpipe.phantom.canvas import Tubes
from lesionpipe.phantom.organs import tube_courses

STEP_MM = 9.0  # length of the straight pieces of a curved course


def courses(rng: np.random.Generator, body: Body) -> dict[str, Tubes]:
    """All named courses with one patient's variation."""
    made = {}
    for name, keys in tube_courses().items():
        shift = rng.normal(0, 0.015, 2)
        points = np.array([body.point(u + shift[0], v + shift[1], t) for u, v, t, _ in keys])
        radii = np.array([k[3] for k in keys]) * body.organ * rng.normal(1, 0.08)
        path, radii = _smooth(points, radii)
        if name == "colon":  # haustra
            radii = radii * rng.uniform(0.78, 1.15, len(radii))
        made[name] = _chain(path, radii)
    return made


def _smooth(points: np.ndarray, radii: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A course through key points (n, 3), cut into pieces of about STEP_MM with rounded corners."""
    length = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])
    at = np.linspace(0, length[-1], max(int(length[-1] / STEP_MM), 2) + 1)
    path = np.stack([np.interp(at, length, points[:, i]) for i in range(3)], axis=1)
    inner = path[1:-1]
    for _ in range(2):
        inner = path[1:-1] = (path[:-2] + 2 * inner + path[2:]) / 4
    return path, np.interp(at, length, radii)


def _chain(path: np.ndarray, radii: np.ndarray) -> Tubes:
    return Tubes(np.stack([path[:-1], path[1:]], axis=1), (radii[:-1] + radii[1:]) / 2)


def join(tubes: list[Tubes]) -> Tubes:
    """All pieces in one."""
    return Tubes(np.concatenate([t.ends for t in tubes]), np.concatenate([t.radii for t in tubes]))


def tree(
    rng: np.random.Generator, root: np.ndarray, reach: np.ndarray, stems: int, generations: int, radius: float
) -> Tubes:
    """A branching tree from `root` that fills the ellipsoid of half axes `reach` (mm) around it.

    Args:
        stems: branches that leave the root.
        generations: how often each branch splits into two.
        radius: of the stems, mm; children are thinner by the cube root of two.
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
    return join(made)


def small_bowel(rng: np.random.Generator, body: Body, loops: int = 14, pieces: int = 15) -> tuple[Tubes, np.ndarray]:
    """Loops that wander through the belly, and for each piece the loop it belongs to (n,)."""
    made, loop_of = [], []
    for loop in range(loops):
        at = np.array([rng.uniform(-0.5, 0.5), rng.uniform(-0.55, 0.05), rng.uniform(1.6, 2.55)])
        path, heading = [body.point(*at)], rng.normal(size=3)
        for _ in range(pieces):
            heading = 0.75 * heading / np.linalg.norm(heading) + rng.normal(0, 0.45, 3)
            ahead = at + heading * np.array([0.16, 0.22, 0.08])
            low, high = np.array([-0.6, -0.75, 1.5]), np.array([0.62, 0.15, 2.62])
            heading = np.where((ahead < low) | (ahead > high), -heading, heading)
            at = np.clip(at + heading * np.array([0.16, 0.22, 0.08]), low, high)
            path.append(body.point(*at))
        made.append(_chain(np.array(path), rng.uniform(9, 13.5) * rng.uniform(0.85, 1.1, pieces + 1)))
        loop_of += [loop] * pieces
    return join(made), np.array(loop_of)
