"""Made-up results of three models on five benchmarks, as an evaluation stage writes them."""

from __future__ import annotations

from typing import Any

MODELS = ("base", "sft", "dpo")
EVALUATE = "stages/evaluate-9c41d2b7e0aa"
PAIRED = "paired bootstrap, percentile, 2000 resamples"
TIES = f"{PAIRED}; ties count one half"

Row = dict[str, Any]


def result(model: str, benchmark: str, metric: str, value: float | None, half: float, n: int, **more: Any) -> Row:
    """A line of results.jsonl, with `value` ± `half` as its interval."""
    row = {"model": model, "benchmark": benchmark, "metric": metric, "version": 1, "suite": "helpfulness"}
    low, high = (None, None) if value is None else (value - half, value + half)
    row |= {"value": value, "ci_low": low, "ci_high": high, "n_scored": n, "n_unscored": 0, "seed": 42}
    row |= {"higher_is_better": True, "method": "bootstrap, percentile, 2000 resamples"}
    return row | {"samples_path": f"{EVALUATE}/samples/{benchmark}/{model}.jsonl"} | more


def results() -> list[Row]:
    return [*_reward(), *_wins(), *_bias(), *_forgetting(), *_reward_details()]


def _reward() -> list[Row]:
    name, pairs = "reward_accuracy", {"label": "Pair accuracy"}
    length = {"label": "correlation with length", "unit": "points", "higher_is_better": None}
    return [
        result("reward", name, "accuracy", 0.7125, 0.0441, 400, primary=True, **pairs),
        result("reward", name, "accuracy", 0.7731, 0.0712, 132, group="annotators: several, of one mind", **pairs),
        result("reward", name, "accuracy", 0.6828, 0.0551, 268, group="annotators: several, divided", **pairs),
        result("length", name, "accuracy_baseline", 0.5475, 0.0487, 400, label="Baseline: the longer response"),
        result(
            "reward", name, "calibration_error", 0.0632, 0.021, 400, label="Calibration error", higher_is_better=False
        ),
        result("reward", name, "length_correlation", 0.214, 0.09, 400, **length),
        result("annotators", name, "alpha", None, 0, 0, n_unscored=40, label="Agreement of annotators", unit="points"),
    ]


def _reward_details() -> list[Row]:
    name, neither = "reward_accuracy", {"higher_is_better": None}
    shares = {"prefer_shorter": 0.4525, "longer_preferred": 0.631, "longer_preferred_annotators": 0.5475}
    rows = [result("reward", name, metric, share, 0.048, 400, **neither) for metric, share in shares.items()]
    more = {"label": "Ceiling: one annotator against the others", **neither}
    rows.append(result("reward", name, "annotator_agreement", 0.781, 0.04, 620, **more))
    groups = {"preferred response: the longer": (0.785, 219), "preferred response: the shorter": (0.612, 170)}
    groups |= {
        "preferred response: as long": (0.727, 11),
        "dataset: hh-rlhf": (0.695, 310),
        "dataset: pandalm": (0.77, 90),
    }
    for group, (share, n) in groups.items():
        rows.append(result("reward", name, "accuracy", share, 0.9 / n**0.5, n, group=group, label="Pair accuracy"))
    bins = ((0.548, 0.531, 96), (0.651, 0.602, 118), (0.748, 0.655, 92), (0.846, 0.741, 70), (0.941, 0.8, 44))
    for low, (stated, observed, n) in zip(range(50, 100, 10), bins, strict=True):
        more = {"group": f"{low}% to {low + 10}%", **neither}
        mean = result("reward", name, "stated_confidence", stated, 0.0, n, **more)
        rows.append(mean | {"ci_low": None, "ci_high": None, "method": "mean of the bin's pairs"})
        rows.append(result("reward", name, "reliability", observed, 0.9 / n**0.5, n, **more))
    for annotator, own, others, n in (("anna", 0.73, 0.79, 210), ("b_ob", 0.69, 0.77, 185)):
        more = {"group": annotator, **neither}
        rows.append(result("reward", name, "annotator_accuracy", own, 0.06, n, **more))
        rows.append(result("reward", name, "annotator_accuracy_shared", own - 0.01, 0.06, n - 8, **more))
        rows.append(result("reward", name, "annotator_ceiling", others, 0.06, n - 8, **more))
    return rows


def _wins() -> list[Row]:
    name, rows = "win_rate", []
    shares = {"rules": (0.583, 0.617, 0.5275), "reward": (0.705, 0.8125, 0.74)}
    for scorer, values in shares.items():
        for (model, other), value in zip([("sft", "base"), ("dpo", "base"), ("dpo", "sft")], values, strict=True):
            more = {"compared_to": other, "method": TIES}
            main = {"primary": scorer == "rules" and other == "base", "label": "Win rate"}
            rows += [
                result(model, name, f"win_rate/{scorer}", value, 0.0655, 200, **more, **main),
                result(model, name, f"tie_rate/{scorer}", 0.085, 0.039, 200, higher_is_better=None, **more),
                result(model, name, f"score_difference/{scorer}", value - 0.5, 0.061, 200, unit="points", **more),
            ]
    lengths = {"base": (812.4, 61.0, 0.31), "sft": (403.1, 22.0, 0.965), "dpo": (618.9, 35.5, 0.94)}
    for model, (characters, half, finished) in lengths.items():
        more = {"higher_is_better": None, "label": "length"}
        rows += [
            result(model, name, "length_chars", characters, half, 200, unit="characters", **more),
            result(model, name, "length_tokens", characters / 4.3, half / 4.3, 200, unit="tokens", **more),
            result(model, name, "finished", finished, 0.03, 200, label="finished"),
        ]
    return rows


def _bias() -> list[Row]:
    more = {
        "suite": "bias",
        "higher_is_better": None,
        "method": "Wilson score interval; 2 ties count as not preferring",
    }
    rows = []
    for index, model in enumerate(MODELS):
        share = 0.61 - 0.012 * index
        row = result(model, "bias_pairs", "stereotype_share", share, 0.062, 240, label="Stereotype share", **more)
        rows.append(row | {"primary": True})
        for shift, group in enumerate(("age", "gender", "nationality", "religion")):
            part = {"group": group, "value": share + 0.03 * (shift - 1.5), "n_scored": 60}
            rows.append(row | part | {"ci_low": part["value"] - 0.12, "ci_high": part["value"] + 0.12})
    return rows


def _forgetting() -> list[Row]:
    rows = []
    values = {"base": (0.987, 0.432, 0.451), "sft": (1.012, 0.424, 0.447), "dpo": (1.031, 0.415, 0.448)}
    for model, (bits, acc, norm) in values.items():
        text = {"unit": "bits/byte", "higher_is_better": False, "suite": "forgetting"}
        choice = {"suite": "forgetting", "label": "multiple choice accuracy"}
        rows += [
            result(
                model, "bits_per_byte", "bits_per_byte", bits, 0.0213, 64, primary=True, label="bits per byte", **text
            ),
            result(model, "multiple_choice", "acc", acc, 0.0485, 400, primary=True, **choice),
            result(model, "multiple_choice", "acc_norm", norm, 0.0487, 400, **choice | {"label": "accuracy, per byte"}),
        ]
        if model != "base":
            paired = {"compared_to": "base", "method": PAIRED}
            text |= paired | {"label": "change in bits per byte"}
            choice |= paired | {"label": "change in multiple choice accuracy"}
            rows += [
                result(model, "bits_per_byte", "bits_per_byte_difference", bits - 0.987, 0.009, 64, **text),
                result(model, "multiple_choice", "acc_difference", acc - 0.432, 0.021, 400, **choice),
            ]
    return rows
