"""What an over-optimisation study measured, as its stage wrote it to overoptimisation.json."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from alignment.errors import DataError
from alignment.report.reading import document

Method = Literal["bon", "ppo"]
Reward = Literal["proxy", "gold"]


@dataclass(frozen=True)
class Point:
    """Proxy and gold at one distance: of best-of-`at`, or of step `at` of a PPO stage."""

    method: Method
    seed: int
    at: int
    kl: float  # nats per answer, not below 0
    proxy: float
    gold: float

    @property
    def d(self) -> float:
        return math.sqrt(self.kl)


@dataclass(frozen=True)
class CurvePoint:
    """The fitted curve at a distance; no bounds where there are too few seeds."""

    d: float
    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Fit:
    """α and β of a curve; all None with a reason when it is undefined. `peak`: the d at which it is highest."""

    method: Method
    reward: Reward
    n_points: int
    n_seeds: int
    reason: str = ""
    alpha: float | None = None
    beta: float | None = None
    alpha_se: float | None = None
    beta_se: float | None = None
    alpha_low: float | None = None
    alpha_high: float | None = None
    beta_low: float | None = None
    beta_high: float | None = None
    peak: float | None = None
    curve: tuple[CurvePoint, ...] = ()


@dataclass(frozen=True)
class Seed:
    """A proxy and the PPO stage that maximised it, with the start policy's mean and deviation under that proxy."""

    seed: int
    proxy: str
    ppo: str
    proxy_mean: float
    proxy_sd: float
    left_out: int = 0  # logged steps without a KL, or without all the scores


@dataclass(frozen=True)
class StudyFile:
    """The file's object."""

    scale: str
    n: int  # answers per prompt
    n_prompts: int
    gold: str
    gold_mean: float
    gold_sd: float
    seeds: tuple[Seed, ...]
    points: tuple[Point, ...]
    fits: tuple[Fit, ...]


@dataclass(frozen=True)
class Study:
    """A study and the stage that made it."""

    stage: str
    file: StudyFile

    def points(self, method: Method) -> list[Point]:
        return [point for point in self.file.points if point.method == method]

    def fit(self, method: Method, reward: Reward) -> Fit | None:
        return next((fit for fit in self.file.fits if (fit.method, fit.reward) == (method, reward)), None)


def load_study(stage: str, path: Path) -> Study:
    """Raises DataError naming the file and the key for what is missing, of a wrong type, or not finite."""
    file = document(StudyFile, path)
    for name, value in _numbers(file):
        if not math.isfinite(value):
            raise DataError(f"{path}: {name} is {value}; an undefined number is written as null")
    for index, point in enumerate(file.points):
        if point.kl < 0:
            raise DataError(f"{path}: points.{index}.kl is {point.kl}; a distance needs a KL of 0 or more")
    return Study(stage, file)


def _numbers(thing: object, name: str = "") -> Iterator[tuple[str, float]]:
    """Every float in nested dataclasses and tuples, with its place."""
    if isinstance(thing, float):
        yield name, thing
    elif isinstance(thing, tuple):
        for index, item in enumerate(thing):
            yield from _numbers(item, f"{name}.{index}")
    elif hasattr(thing, "__dataclass_fields__"):
        for key in thing.__dataclass_fields__:
            yield from _numbers(getattr(thing, key), f"{name}.{key}" if name else key)
