"""Search spaces of the Swift Sampler: maps between a unit cube and `SwiftParams`.

Notation: F features, S segments, c a point of the cube [0, 1]^d.
    paper10   v = 2c - 1, e as below, o = c: F + (S - 1) + (S + 1) dimensions, 10 for F = 2, S = 4 (the paper's count)
    reduced   v on the half sphere v_1 >= 0 (F - 1), e as below (S - 1), o on the positive orthant of the sphere (S),
              scaled to maximum 1: 8 dimensions for F = 2, S = 4. It leaves out what changes no sampler: the scales of
              v and o, and the mirror image (not stated in the paper)
    e         order statistics of S - 1 uniform draws, from the last: e_k = e_{k+1} c_k^(1/k), with e_S = 1
Spherical angles are warped by the Beta law of their squared sine, so a uniform cube is a uniform sphere: no
component is favoured, and random search is fair.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import betainc, betaincinv

from drawstream.samplers.swift import SwiftParams

SpaceName = Literal["paper10", "reduced"]
EDGE = 0.01  # ends keep c in [EDGE, 1 - EDGE]: no two of them meet
MOST_SEGMENTS = 32  # beyond, EDGE would not keep the ends apart

Point = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Space:
    """A cube of sampler parameters.

    Example:
        >>> space = Space("reduced", features=2, segments=4)
        >>> space.decode(space.encode(SwiftParams.uniform())) == SwiftParams.uniform()
        True

    Attributes:
        name: "reduced" or "paper10".
        features: F, number of features.
        segments: S, number of segments of H (4: Tab. 8 of the paper).
    """

    name: SpaceName = "reduced"
    features: int = 2
    segments: int = 4

    def __post_init__(self) -> None:
        if self.name not in ("paper10", "reduced"):
            raise ValueError(f'space must be "reduced" or "paper10", but got {self.name!r}')
        if self.features < 1:
            raise ValueError(f"features >= 1 must hold, but got {self.features}")
        if not 1 <= self.segments <= MOST_SEGMENTS:
            raise ValueError(f"1 <= segments <= {MOST_SEGMENTS} must hold, but got {self.segments}")

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the coordinates, in order: what a study's dashboard shows."""
        one = int(self.name == "reduced")
        return (
            *(f"coefficient_{n + 1 + one}" for n in range(self.features - one)),
            *(f"end_{k + 1}" for k in range(self.segments - 1)),
            *(f"value_{s + one}" for s in range(self.segments + 1 - one)),
        )

    def decode(self, point: Sequence[float] | Point, /) -> SwiftParams:
        """Parameters at a point of the cube (d,).

        Raises:
            DegenerateSampler: The point has v = 0 or o = 0 (paper10 only).
        """
        v, e, o = self._split(np.asarray(point, np.float64))
        if self.name == "paper10":
            return SwiftParams(tuple(2 * v - 1), _ends(e), tuple(o))
        return SwiftParams(_direction(2 * v - 1), _ends(e), _unit(_direction(o)))

    def encode(self, params: SwiftParams, /) -> Point:
        """The point of the cube, float64 (d,), that gives these `params`, up to what the space leaves out."""
        if self.name == "paper10":
            v = (np.array(params.coefficients) / max(map(abs, params.coefficients)) + 1) / 2
            return np.concatenate([v, _ends_to_cube(params.ends), params.values])
        v = np.array(params.canonical().coefficients)
        params = params.canonical()
        return np.concatenate(
            [(_direction_to_cube(v) + 1) / 2, _ends_to_cube(params.ends), _direction_to_cube(params.values)]
        )

    def starts(self) -> list[Point]:
        """Designed first points, all over the first feature: uniform, falling ramp, step at .5 to .75, rising ramp.

        Not stated in the paper. A prototype on noisy labels needed them: random points rarely hit a plain ramp.
        """
        ends = np.linspace(0, 1, self.segments + 1)
        shapes = [np.ones(ends.size), 1 - ends, np.clip((0.75 - ends) / 0.25, 0, 1), ends]
        points: list[Point] = []
        for shape in shapes:
            point = self.encode(SwiftParams((1.0,) + (0.0,) * (self.features - 1), tuple(ends[1:-1]), tuple(shape)))
            if not any(np.array_equal(point, known) for known in points):
                points.append(point)
        return points

    def _split(self, point: Point) -> tuple[Point, Point, Point]:
        if point.shape != (len(self.names),):
            raise ValueError(f"a point of this space has {len(self.names)} coordinates, but got shape {point.shape}")
        if not ((point >= 0) & (point <= 1)).all():
            raise ValueError(f"coordinates must lie in [0, 1], but got {point}")
        first = self.features - int(self.name == "reduced")
        v, e, o = np.split(point, [first, first + self.segments - 1])
        return v, e, o


def _ends(cube: Point) -> tuple[float, ...]:
    end = 1.0
    ends: list[float] = []
    for k in range(cube.size, 0, -1):
        end *= float(np.clip(cube[k - 1], EDGE, 1 - EDGE)) ** (1 / k)
        ends.append(end)
    return tuple(reversed(ends))


def _ends_to_cube(ends: Sequence[float]) -> Point:
    above = (*ends, 1.0)[1:]
    return np.array([(a / b) ** k for k, (a, b) in enumerate(zip(ends, above, strict=True), start=1)])


def _direction(signed: Point) -> tuple[float, ...]:
    """Unit vector (K + 1,) from K signed quantiles in [-1, 1]; its first component is never negative."""
    vector = np.ones(1)
    for k, quantile in enumerate(signed, start=1):
        sine = np.sqrt(betaincinv(0.5, k / 2, abs(quantile)))  # the squared sine is Beta(1/2, k/2) on a sphere
        vector = np.append(vector * np.sqrt(max(1 - sine**2, 0.0)), np.copysign(sine, quantile))
    return tuple(vector.tolist())


def _direction_to_cube(vector: Sequence[float] | Point) -> Point:
    squares = np.square(np.asarray(vector, np.float64))
    signed = []
    for k in range(1, squares.size):
        total = squares[: k + 1].sum()
        sine = squares[k] / total if total else 0.5  # all zero so far: any angle serves
        signed.append(np.copysign(betainc(0.5, k / 2, sine), vector[k]))
    return np.array(signed)


def _unit(values: Sequence[float]) -> tuple[float, ...]:
    """Scale to maximum 1; 12 digits, so that the round trip through angles gives ones and not 1 - 1e-16."""
    return tuple(round(abs(x) / max(values), 12) for x in values)
