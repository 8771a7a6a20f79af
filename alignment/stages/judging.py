"""Judgements of records by a scorer, for every stage that makes some."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from alignment.preferences.record import Annotator, PreferenceRecord, Response
from alignment.preferences.scored import by_scores
from alignment.preferences.views import plain
from alignment.runs import RunContext
from alignment.scorer_names import OVERALL
from alignment.stages.reference_answers import REFERENCE
from alignment.stages.scoring import Reward, ScorerTerm

if TYPE_CHECKING:
    from alignment.scorers import CheckedScorer

Scores = dict[str, list[float]]  # criterion -> a score for each judged response; `overall` first


def candidates(record: PreferenceRecord) -> list[Response]:
    """The responses that are judged: all but those that are there to be compared with."""
    return [r for r in record.responses if r.generator is None or r.generator.name != REFERENCE]


def annotator(context: RunContext, reward: Reward) -> Annotator:
    """The scorer as an annotator; its id names each model and rule, and weights and options that are not the default.

    `0.5*length_target(target=20) + run-reward@1`: what is called differently in results alone is the same scorer.
    """
    if isinstance(reward, str):
        return Annotator(id=context.inputs["reward"], kind="model")
    parts = []
    for place, term in enumerate(reward, 1):
        refs = [context.inputs[role] for role in term.inputs(f"reward_{place}")]
        name = _ensemble(refs, term.options) if term.models else (refs[0] if refs else term.rule or "") + _options(term)
        parts.append(name if term.weight == 1 else f"{_short(term.weight)}*{name}")
    return Annotator(id=" + ".join(parts), kind="rule" if all(term.rule for term in reward) else "model")


def _ensemble(refs: Sequence[str], options: Mapping[str, Any]) -> str:
    """`uncertainty 0.5 (a@1, b@1)`."""
    penalty = options.get("penalty", 1)
    weight = "" if penalty == 1 else f"{_short(penalty)} "
    return f"{options.get('aggregate', 'mean')} {weight}({', '.join(refs)})"


def _options(term: ScorerTerm) -> str:
    """`(aggregate="uncertainty", penalty=0.5)`, by name; nothing where none was given but the rule's defaults.

    What a model would do without options is its own affair, so that each one given to it counts.
    """
    from reward.rules import options_of

    default = options_of(term.rule) if term.rule else {}
    given = {key: value for key, value in sorted(term.options.items()) if key not in default or value != default[key]}
    told = ", ".join(f"{k}={_short(v) if isinstance(v, int | float) else json.dumps(v)}" for k, v in given.items())
    return f"({told})" if told else ""


def _short(value: float) -> str:
    """2.0 and 2 are one number, 2; no digit that tells two apart is lost."""
    return f"{value:g}" if float(f"{value:g}") == value else repr(value)


def score(
    records: Sequence[PreferenceRecord], scorer: CheckedScorer, watch: CheckedScorer | None = None
) -> list[Scores]:
    """Scores of every candidate of every record: the sum as `overall`, its terms where there are several, and `watch`.

    Raises AlignmentError as `CheckedScorer.score`.
    """
    flat = [(record.id, plain(record.prompt.messages), r.text()) for record in records for r in candidates(record)]
    columns = [list(column) for column in zip(*flat, strict=True)]
    scored = scorer.score(*columns)
    named: dict[str, Any] = {OVERALL: scored.scores}
    named |= scored.terms if len(scored.terms) > 1 else {}
    named |= watch.score(*columns).terms if watch is not None else {}
    values = {name: [float(value) for value in column] for name, column in named.items()}
    found, place = [], 0
    for record in records:
        end = place + len(candidates(record))
        found.append({name: column[place:end] for name, column in values.items()})
        place = end
    return found


def judged(
    record: PreferenceRecord, scores: Mapping[str, Sequence[float]], who: Annotator, tie_width: float
) -> PreferenceRecord:
    """The record with the scorer's order and ratings of its candidates; what others said of it is left out."""
    return by_scores(record, [response.id for response in candidates(record)], scores, who, tie_width)
