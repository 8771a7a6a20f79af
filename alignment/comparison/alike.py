"""Were two stored evaluations asked the same, and scored in the same way? What is no fair comparison is an error."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from alignment.comparison.sides import Stored
from alignment.errors import DataError
from alignment.evaluation.benchmarks.benchmark import Benchmark, Sample
from alignment.evaluation.benchmarks.measures import Measure

_SHOWN = 60  # characters of an option's value in a message


def same_version(benchmark: Benchmark, a: Stored, b: Stored, title: str) -> int | None:
    """The version of both; None where neither says one. Raises DataError where they differ, or are not this one's."""
    versions = [stored.version for stored in (a, b) if stored.version is not None]
    if len(set(versions)) > 1:
        raise DataError(
            f"{title} were evaluated with versions {versions[0]} and {versions[1]} of {benchmark.name}; "
            "evaluate the older again"
        )
    if versions and versions[0] != (own := benchmark.results_version()):
        raise DataError(
            f"{title} hold version {versions[0]} of {benchmark.name}, this installation reads {own}; "
            "evaluate both again"
        )
    return versions[0] if versions else None


def same_settings(name: str, a: Stored, b: Stored, title: str) -> None:
    """Raises DataError naming every option of the benchmark that both recorded, with another value."""
    one, other = a.settings(), b.settings()
    if one is None or other is None:
        return
    different = [
        f"{option} {_value(value)} and {_value(other[option])}"
        for option, value in one.items()
        if option in other and value != other[option]
    ]
    if different:
        raise DataError(
            f"{title} were evaluated with other options of {name}: {'; '.join(different)}; evaluate one of them again "
            "with the other's, or choose other benchmarks with --benchmark"
        )


def unrecorded(a: Stored, b: Stored) -> bool:
    """Whether two evaluations may have had other options, since one of them does not say (all of) them."""
    one, other = a.settings(), b.settings()
    if one is None or other is None:
        return a.out_dir.resolve() != b.out_dir.resolve()  # models of one evaluation had the same
    return one.keys() != other.keys()


def same_items(
    benchmark: Benchmark, both: Sequence[str], samples: tuple[Mapping[str, Sample], Mapping[str, Sample]], title: str
) -> None:
    """Raises DataError for an item that is another one under the same id."""
    for item in both:
        for key in benchmark.same:
            if samples[0][item].get(key) != samples[1][item].get(key):
                raise DataError(
                    f"{title}: item {item!r} of {benchmark.name} differs in {key!r}: the two were not asked the same; "
                    "evaluate both on one version of the data"
                )


def weighed_alike(a: Measure, b: Measure) -> bool:
    """Whether every item that both have a value for weighs the same on both sides."""
    return all(
        math.isclose(item.weight, b.items[key].weight)
        for key, item in a.items.items()
        if key in b.items and item.value is not None and b.items[key].value is not None
    )


def _value(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
