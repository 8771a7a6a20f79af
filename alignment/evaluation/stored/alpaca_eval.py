"""AlpacaEval: a judge's preferences between a model's answers and a baseline's, and the win rate at equal length."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator, model_validator

from alignment.errors import DataError
from alignment.evaluation.metrics.length_control import FEWEST, GAMED_WEIGHT, GamedRow, length_controlled
from alignment.evaluation.result import EvalResult
from alignment.evaluation.statistics import Interval, mean_interval, share_interval, standard_error
from alignment.evaluation.stored.alpaca_eval_files import (
    BY_ORDER,
    as_item,
    beside,
    difficulties,
    gamed_rows,
    with_difficulty,
)
from alignment.evaluation.stored.rows import read_rows, require_columns, stem
from alignment.evaluation.stored.stored import Read, StoredBenchmark, StoredItem, by_model, parse_rows, refuse_twins

DIFFICULTY, GAMED = "instruction_difficulty.csv", "gamed_rows.csv"  # looked for beside the predictions
_FIT = "undefined: AlpacaEval 2's model needs the difficulty of every instruction; give --difficulty"
_LENGTHS = "undefined: no item has the lengths of both answers (output_1, output_2 or len_baseline, len_model)"


class AlpacaEvalItem(StoredItem):
    """One instruction with the judge's preference, or one answer of a gamed baseline (`tanh_length` is set)."""

    predictions = ("preference",)

    index: int | None = Field(None, description="The instruction's place among the 805; what its difficulty is for.")
    preference: float | None = Field(
        description="1 the baseline is better ... 2 the model is; 0 is a tie, as 1.5. Null or NaN is unscored."
    )
    len_baseline: int | None = Field(None, ge=0, description="Characters of the baseline's answer, output_1.")
    len_model: int | None = Field(None, ge=0, description="Characters of the model's answer, output_2.")
    dataset: str | None = Field(None, description="Where the instruction is from: a group of its own.")
    is_baseline: bool = Field(False, description="The model is the baseline: half of the wins by construction.")
    difficulty: float | None = Field(None, allow_inf_nan=False, description="γ of the instruction.")
    difficulty_from: str | None = Field(None, description="How γ was found in a file of them, or why it was not.")
    tanh_length: float | None = Field(None, description="Gamed rows only: tanh(Δ/sd(Δ)).")
    weight: float = Field(GAMED_WEIGHT, ge=0, description="Gamed rows only: their weight in the regression.")

    @field_validator("preference", "len_baseline", "len_model", mode="before")
    @classmethod
    def _not_given(cls, value: Any) -> Any:
        text = str(value).strip().lower()
        return None if value is None or text in ("", "nan", "none", "null") else value

    @field_validator("preference")
    @classmethod
    def _in_range(cls, value: float | None) -> float | None:
        if value == 0:
            return 1.5
        if value is not None and not 1 <= value <= 2:
            raise ValueError("a preference is between 1 and 2, or 0 for a tie")
        return value

    @model_validator(mode="after")
    def _whole(self) -> AlpacaEvalItem:
        if self.tanh_length is not None and (self.difficulty is None or self.preference is None):
            raise ValueError("a gamed row needs its preference and instruction_difficulty")
        return self

    @property
    def wins(self) -> float | None:
        """The preference in 0..1."""
        return None if self.preference is None else self.preference - 1

    @property
    def delta(self) -> int | None:
        """Baseline minus model, in characters; None without both lengths."""
        return None if self.len_baseline is None or self.len_model is None else self.len_baseline - self.len_model


class AlpacaEval(StoredBenchmark[AlpacaEvalItem]):
    name = "alpaca_eval"
    version = 2
    suite = "helpfulness"
    record = AlpacaEvalItem
    options = ("difficulty", "gamed")
    about = (
        "How often a judge prefers the model to a baseline, graded, discrete, and with the effect of length taken out "
        "(AlpacaEval 2; Dubois et al. 2024)."
    )
    files = (
        "`annotations.json` (or .jsonl) as AlpacaEval writes it, or a CSV with `row, preference` and, for the "
        "length-controlled metrics, `len_baseline, len_model` (or `len(output_1), len(output_2)`); an item without "
        "lengths is unscored in those alone. `--difficulty` is `instruction_difficulty.csv` (index, "
        "instruction_difficulty), `--gamed` is `gamed_rows.csv` (preference in 0..1, tanh_std_delta_len, "
        "instruction_difficulty, weight); files of these names beside the predictions or one folder up are used "
        "without being named, and the method says so. Annotations without an `index` are matched by `instruction` "
        "where the difficulties have that column, else by row order where `dataset` shows that it is AlpacaEval's: one "
        "row per difficulty, in its five blocks. In any other case the length-controlled rate is undefined."
    )
    example = "alpaca_eval alpaca-7b.csv --difficulty instruction_difficulty.csv --gamed gamed_rows.csv"
    notes = (
        "a judge's preferences are not human ones",
        "without gamed rows the length-controlled rate is off by 1.1 points in the median, from length alone by 4.8",
    )

    def read(self, paths: Sequence[Path], options: Mapping[str, str]) -> Read[AlpacaEvalItem]:
        items: list[AlpacaEvalItem] = []
        refused: list[tuple[str, str]] = []
        gammas = difficulties(beside(paths, options, "difficulty", DIFFICULTY))
        for path in paths:
            given = read_rows(path)
            require_columns(given, path, ["preference"])
            rows = [as_item(row, stem(path)) for row in given]
            found = parse_rows(with_difficulty(rows, gammas, asked="difficulty" in options), AlpacaEvalItem)
            items += found.items
            refused += found.refused
        answers = [item for item in items if item.tanh_length is None and item.index is not None]
        refuse_twins(answers, "index")
        gamed = beside(paths, options, "gamed", GAMED)
        if gamed is not None and gammas is not None:
            found = parse_rows(gamed_rows(gamed), AlpacaEvalItem, model="")
            items += found.items
            refused += found.refused
        elif "gamed" in options:
            raise DataError("--gamed needs --difficulty: the gamed rows hold its coefficient in place")
        return Read(items, refused)

    def score(self, items: Sequence[AlpacaEvalItem], *, seed: int) -> list[EvalResult]:
        gamed = [
            GamedRow((item.preference or 1) - 1, item.tanh_length, item.difficulty, item.weight)
            for item in items
            if item.tanh_length is not None and item.difficulty is not None
        ]
        results: list[EvalResult] = []
        for model, own in by_model([item for item in items if item.tanh_length is None]).items():
            results += self._overall(model, own, gamed, seed)
            datasets = sorted({item.dataset for item in own if item.dataset is not None})
            for dataset in datasets if len(datasets) > 1 else ():
                results += self._rates(model, [item for item in own if item.dataset == dataset], seed, dataset)
        return results

    def _overall(
        self, model: str, items: Sequence[AlpacaEvalItem], gamed: Sequence[GamedRow], seed: int
    ) -> Iterator[EvalResult]:
        yield from self._rates(model, items, seed, None)
        wins = [item.wins for item in items if item.wins is not None]
        unscored = len(items) - len(wins)
        error = standard_error(wins)
        why = "s/√n with n - 1; an error has no interval" if error is not None else "undefined for fewer than two items"
        error_interval = Interval(error, None, None, why, len(wins))
        yield self.figure(model, "win_rate_standard_error", error_interval, seed=seed, unscored=unscored)
        measured = [item for item in items if item.delta is not None]
        unscored = sum(item.wins is None or item.delta is None for item in items)
        shared: dict[str, Any] = {"seed": seed, "unscored": unscored, "higher_is_better": True}
        for metric, interval in _at_equal_length(items, measured, gamed).items():
            primary = metric == "length_controlled_win_rate"
            yield self.figure(model, metric, interval, primary=primary, **shared)
        lengths = [float(item.len_model) for item in items if item.len_model is not None]
        mean = mean_interval(lengths, seed=seed)
        if mean.value is not None:  # truncated, as AlpacaEval prints it
            mean = replace(mean, value=float(int(mean.value)), method=f"{mean.method}; truncated to an integer")
        missing = len(items) - len(lengths)
        yield self.figure(model, "avg_length", mean, seed=seed, unscored=missing, unit="characters")

    def _rates(self, model: str, items: Sequence[AlpacaEvalItem], seed: int, group: str | None) -> Iterator[EvalResult]:
        wins = [item.wins for item in items if item.wins is not None]
        shared: dict[str, Any] = {"seed": seed, "unscored": len(items) - len(wins), "group": group}
        yield self.figure(model, "win_rate", share_interval(wins, seed=seed), higher_is_better=True, **shared)
        # A preference of exactly 1.5 is half a win.
        discrete = share_interval([0.5 if win == 0.5 else float(win > 0.5) for win in wins], seed=seed)
        yield self.figure(model, "discrete_win_rate", discrete, higher_is_better=True, **shared)


def _at_equal_length(
    items: Sequence[AlpacaEvalItem], measured: Sequence[AlpacaEvalItem], gamed: Sequence[GamedRow]
) -> dict[str, Interval]:
    """The length-controlled rate, without the gamed rows, and from length alone; the method says what was fitted.

    `measured` are the items that have both lengths.
    """
    n = sum(item.wins is not None for item in measured)
    if items and all(item.is_baseline for item in items):
        half = Interval(0.5, None, None, "the model is the baseline: half", n)
        return {"length_controlled_win_rate": half}
    if not measured:
        none = Interval(None, None, None, _LENGTHS if items else "no data", n)
        return {"length_controlled_win_rate": none, "length_only_win_rate": none}
    found = {}
    gammas = [item.difficulty for item in measured if item.difficulty is not None]
    if len(gammas) < len(measured):
        told = next((item.difficulty_from for item in measured if item.difficulty is None), None)
        found["length_controlled_win_rate"] = Interval(None, None, None, told or _FIT, n)
    else:
        if gamed:
            found["length_controlled_win_rate"] = _fitted(measured, gammas, gamed)
        plain = "length_controlled_win_rate_without_gamed" if gamed else "length_controlled_win_rate"
        found[plain] = _fitted(measured, gammas, ())
    found["length_only_win_rate"] = _fitted(measured, None, ())
    return found


def _fitted(items: Sequence[AlpacaEvalItem], gammas: Sequence[float] | None, gamed: Sequence[GamedRow]) -> Interval:
    n = sum(item.wins is not None for item in items)
    if not gamed and n < FEWEST:  # gamed rows hold the coefficients of few items in place
        return Interval(None, None, None, f"undefined for {n} items without gamed rows, needs {FEWEST}", n)
    deltas = [item.delta for item in items if item.delta is not None]
    fit = length_controlled([item.wins for item in items], deltas, gammas, gamed)
    if fit.weights is None:
        return fit.rate
    used = "length alone" if gammas is None else "length and difficulty"
    if gammas is not None and any(item.difficulty_from == BY_ORDER for item in items):
        used += f", {BY_ORDER}"
    names = ("φ", "θ") if gammas is None else ("φ", "ψ", "θ")
    rows = f", {len(gamed)} gamed rows" if gamed else ", no gamed rows" if gammas is not None else ""
    weights = ", ".join(f"{name} = {value:.4f}" for name, value in zip(names, fit.weights, strict=True))
    told = f"{used}{rows}; {weights}, C = {fit.regularisation:.4g}"
    if not any(fit.weights):  # σ(0) would claim even chances, and nobody measured them
        why = f"{told}: undefined, the cross-validated penalty leaves no effect at all"
        return Interval(None, None, None, why, fit.rate.n)
    return replace(fit.rate, method=f"{told}; {fit.rate.method}")
