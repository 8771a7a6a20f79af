"""Precision, recall and F1 of a class (van Rijsbergen 1979), by scikit-learn, with bootstrap intervals.

Precision and recall of items that are all right, or all wrong, have Wilson's; an F1 that no resample moves has none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from alignment.evaluation.statistics import Interval, rate_interval, ratio_interval
from alignment.evaluation.statistics.clusters import Clusters
from alignment.evaluation.statistics.intervals import clipped


@dataclass(frozen=True)
class Classification:
    """How well predictions find the members of one class, each 0..1; items that do not enter a number are not drawn."""

    precision: Interval  # TP / (TP + FP); undefined where nothing was predicted to be in the class
    recall: Interval  # TP / (TP + FN); undefined where nothing is in the class
    f1: Interval  # 2 TP / (2 TP + FP + FN); undefined where neither


def classification(
    truth: Sequence[bool], predicted: Sequence[bool], clusters: Clusters = None, *, seed: int
) -> Classification:
    """Precision, recall and F1 of the class that `truth` says items are in. ValueError for different lengths."""
    from sklearn.metrics import precision_recall_fscore_support

    if len(truth) != len(predicted):
        raise ValueError(f"{len(truth)} true labels for {len(predicted)} predictions")
    pairs = [(t, p) for t, p in zip(truth, predicted, strict=True)]
    weights = {"precision": (0, 1), "recall": (1, 0), "f1": (1, 1)}  # of (true, predicted) in what is divided by
    values: dict[str, float] = {}
    if pairs:
        scores = precision_recall_fscore_support(list(truth), list(predicted), average="binary", zero_division=0)
        values = dict(zip(weights, map(float, scores[:3]), strict=True))
    found = {}
    for name, (of_true, of_predicted) in weights.items():
        counted = [of_true * t + of_predicted * p for t, p in pairs]
        kept = [place for place, count in enumerate(counted) if count]
        if not kept:
            found[name] = Interval(None, None, None, f"{name}: undefined, there is no such item", 0)
            continue
        right = [float(all(pairs[place])) for place in kept]
        groups = None if clusters is None else [clusters[place] for place in kept]
        if name == "f1":
            below = [float(counted[place]) for place in kept]
            interval = clipped(ratio_interval([2 * one for one in right], below, groups, seed=seed))
        else:
            interval = rate_interval(right, groups, seed=seed)
        found[name] = replace(interval, value=values[name])
    return Classification(found["precision"], found["recall"], found["f1"])
