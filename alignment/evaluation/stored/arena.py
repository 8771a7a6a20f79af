"""An arena: battles between two models at a time, and the strengths that explain them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from alignment.errors import DataError
from alignment.evaluation.metrics.arena import Battle, davidson, elo_table
from alignment.evaluation.metrics.comparisons import tie_rate
from alignment.evaluation.result import EvalResult
from alignment.evaluation.statistics import Interval
from alignment.evaluation.stored.rows import Row, columns, read_rows, require_columns
from alignment.evaluation.stored.stored import Read, StoredBenchmark, StoredItem, parse_rows, refuse_same_names

PROMPT = ("prompt", "prompt_id", "question_id")
OUTCOMES = {"model_a": 1.0, "a": 1.0, "model_b": 0.0, "b": 0.0, "tie": 0.5, "tie (bothbad)": 0.5, "both_bad": 0.5}
ONE_HOT = {"winner_model_a": "model_a", "winner_model_b": "model_b", "winner_tie": "tie"}  # of LMSYS's published CSV
_POOL = "all models"


class ArenaBattle(StoredItem):
    """Two models' answers to one prompt, and which was preferred."""

    predictions = ("winner",)

    model_a: str = Field(min_length=1)
    model_b: str = Field(min_length=1)
    winner: str | None = Field(
        description="`model_a`, `model_b`, `tie`, `tie (bothbad)`, or a model's name. Anything else is unscored."
    )
    prompt: str | None = Field(None, description="What battles are resampled by; without one a battle stands alone.")

    @model_validator(mode="after")
    def _two(self) -> ArenaBattle:
        if self.model_a == self.model_b:
            raise ValueError(f"{self.model_a} against itself")
        return self

    def battle(self) -> Battle | None:
        """None when the winner cannot be read."""
        said = (self.winner or "").strip()
        names = {self.model_a: 1.0, self.model_b: 0.0}
        outcome = names.get(said, OUTCOMES.get(said.lower()))
        return None if outcome is None else Battle(self.model_a, self.model_b, outcome, self.prompt)


class Arena(StoredBenchmark[ArenaBattle]):
    name = "arena"
    version = 1
    suite = "helpfulness"
    record = ArenaBattle
    about = (
        "Elo of every model from battles: Bradley-Terry by maximum likelihood, a tie as half a win to both, "
        "400/ln 10 · β, the mean of all models at 1000. ν and the strengths (shares of their sum) are "
        "of Davidson's (1970) model of ties."
    )
    files = (
        "JSONL (or CSV): `{model_a, model_b, winner, prompt}`; `prompt_id` or `question_id` will do for `prompt`, and "
        "the columns `winner_model_a, winner_model_b, winner_tie`, one of them 1, for `winner`. All files are one "
        "arena. Intervals resample prompts; the order of battles is of no influence."
    )
    example = "arena battles.jsonl"

    def read(self, paths: Sequence[Path], options: Mapping[str, str]) -> Read[ArenaBattle]:
        items: list[ArenaBattle] = []
        refused: list[tuple[str, str]] = []
        refuse_same_names(paths)
        for path in paths:
            found = parse_rows(_as_battles(read_rows(path), path), ArenaBattle, model=_POOL)
            items += found.items
            refused += found.refused
        said = [item for item in items if item.winner]
        if said and not any(item.battle() for item in said):
            odd = f"{said[0].where}: winner {said[0].winner!r}"
            raise DataError(f"{odd} is neither {', '.join(OUTCOMES)} nor one of the two models; so are all the others")
        return Read(items, refused)

    def score(self, items: Sequence[ArenaBattle], *, seed: int) -> list[EvalResult]:
        battles = [battle for item in items if (battle := item.battle()) is not None]
        unread = [item for item in items if item.battle() is None]
        table = elo_table(battles, seed=seed)
        results = []
        for model in sorted(table, key=lambda name: (-(table[name].value or 0.0), name)):
            lost = sum(model in (item.model_a, item.model_b) for item in unread)
            results.append(
                self.figure(model, "elo", table[model], seed=seed, unscored=lost, unit="Elo", higher_is_better=True)
            )
        prompts = [battle.prompt if battle.prompt is not None else index for index, battle in enumerate(battles)]
        shared: dict[str, Any] = {"seed": seed, "unscored": len(unread)}
        ties = tie_rate([battle.outcome for battle in battles], prompts, seed=seed)
        results.append(self.figure(_POOL, "tie_rate", ties, **shared))
        fit = davidson(battles)
        method = fit.reason or "Davidson's model by maximum likelihood; a point estimate, no interval"
        for model, share in _shares(fit.beta or {}).items():
            lost = sum(model in (item.model_a, item.model_b) for item in unread)
            strength = Interval(share, None, None, method, table[model].n)
            results.append(
                self.figure(
                    model, "davidson_strength", strength, unit="share", unscored=lost, higher_is_better=True, seed=seed
                )
            )
        nu = Interval(fit.nu, None, None, method, len(battles))
        results.append(self.figure(_POOL, "davidson_nu", nu, unit="nu", **shared))
        return results


def _shares(beta: Mapping[str, float]) -> dict[str, float]:
    """π_i / Σ π with π = exp(β), the strongest first: the scale on which Davidson (1970) prints strengths."""
    total = sum(map(math.exp, beta.values()))
    return {name: math.exp(beta[name]) / total for name in sorted(beta, key=lambda name: (-beta[name], name))}


def _as_battles(rows: Sequence[Row], path: Path) -> list[Row]:
    """Every row with its prompt as text, and its winner out of the three columns of LMSYS where there is no other."""
    known = columns(rows)
    one_hot = "winner" not in known and ONE_HOT.keys() <= set(known)
    require_columns(rows, path, ["model_a", "model_b", *([] if one_hot else ["winner"])])
    found = []
    for row in rows:
        named = next((row.values[name] for name in PROMPT if row.values.get(name) not in (None, "")), None)
        winner = {"winner": _hot(row)} if one_hot else {}
        found.append(Row(row.where, row.values | {"prompt": None if named is None else str(named)} | winner))
    return found


def _hot(row: Row) -> str | None:
    """The one outcome whose column holds 1 where the others hold 0; None where all are empty.

    Raises:
        DataError: anything else.
    """
    cells = {name: row.values.get(name) for name in ONE_HOT}
    if all(cell in (None, "") for cell in cells.values()):
        return None
    said = {name: str(cell).strip().lower() for name, cell in cells.items()}
    hot = [name for name, cell in said.items() if cell in ("1", "1.0", "true")]
    if len(hot) != 1 or any(said[name] not in ("0", "0.0", "false") for name in ONE_HOT if name not in hot):
        shown = ", ".join(f"{name} {cell}" for name, cell in cells.items())
        raise DataError(f"{row.where}: {shown}; one of the three is 1, the others are 0")
    return ONE_HOT[hot[0]]
