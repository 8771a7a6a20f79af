"""From a model reference to a Scorer, and scorers whose every number was looked at before it is learned from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from alignment.errors import AlignmentError, DataError
from alignment.models import load_reward
from alignment.registry import ModelRegistry
from alignment.runtime import autocast_bf16, pick_device
from alignment.sources import Say
from alignment.sources.resolve import log
from reward.rules import RuleScorer
from reward.scorer import LimitedScorer, Messages, RowError, Scorer, SpreadScorer

if TYPE_CHECKING:
    from reward.model import RewardModel
    from reward.steps import ProcessRewardModel


def reward_model_from(
    ref: str,
    registry: ModelRegistry,
    *,
    name: str = "reward",
    device: str | None = None,
    batch_size: int = 16,
    aggregate: str | None = None,
    penalty: float | None = None,
    share: bool = False,
    say: Say = log,
) -> RewardModel | ProcessRewardModel:
    """The reward model `ref` as a Scorer: text in, scores out, whatever tokenizer the policy has.

    Args:
        ref: a model reference, such as `run-reward@1`.
        registry: where registry references are found.
        name: the scorer's name in results.
        device: None takes a GPU where there is one. bf16 autocast is used where the hardware has it.
        batch_size: rows per forward pass.
        aggregate: how several heads, or the steps of a process model, become one score; None takes what the model was
            trained for.
        penalty: of the aggregate `uncertainty` of several heads.
        share: run what rows have in common once (`share_prefixes`).
        say: gets a line when something is fetched.

    Raises:
        ModelError: as `load_reward` does, and for an architecture that cannot share prefixes.
        ValueError: an unknown aggregate, or a penalty that it does not have.
    """
    import torch

    from alignment.training.prefix_sharing import share_prefixes
    from alignment.training.steps import step_encoder
    from alignment.training.tokens import text_encoder
    from reward.model import RewardModel, marker
    from reward.steps import ProcessRewardModel

    device = device or pick_device()
    model, tokenizer = load_reward(ref, registry, device=device, say=say)
    if share:
        share_prefixes(model)
    autocast = torch.bfloat16 if autocast_bf16(device) else None
    separator = marker(model).get("separator")
    if separator is not None:
        if penalty is not None:
            raise ValueError("it rates steps, whose scores have no penalty; leave penalty out")
        return ProcessRewardModel(
            model, step_encoder(tokenizer, separator), name, batch_size, autocast=autocast, aggregate=aggregate
        )
    return RewardModel(
        model, text_encoder(tokenizer), name, batch_size, autocast=autocast, aggregate=aggregate, penalty=penalty
    )


class Term(NamedTuple):
    """A scorer in a weighted sum, and its name in results."""

    name: str
    scorer: Scorer
    weight: float = 1.0


class Scored(NamedTuple):
    """Scores of n responses."""

    scores: npt.NDArray[np.float32]  # (n,) the weighted sum of the terms
    terms: dict[str, npt.NDArray[np.float32]]  # by name: (n,) as the scorer gave them, unweighted
    spread: npt.NDArray[np.float32] | None  # (n,) standard deviation over ensemble members; None without an ensemble


class CheckedScorer:
    """A weighted sum of scorers that gives finite numbers, one for each response, or an error naming the prompt."""

    def __init__(self, terms: Sequence[Term]) -> None:
        """Raises ValueError for no terms, or two of one name."""
        if not terms:
            raise ValueError("there is no scorer")
        if len({term.name for term in terms}) < len(terms):
            raise ValueError("two terms have one name")
        self.terms = tuple(terms)

    def check_prompts(self, ids: Sequence[str], prompts: Sequence[Messages], answer_tokens: int = 0) -> None:
        """Finds the prompts whose answers could not be judged before they are answered.

        Raises:
            DataError: no reference answer where a rule needs one, or a model whose context is too short for the prompt
                and an answer of `answer_tokens`.
            AlignmentError: a model cannot read the prompt.
        """
        for term in self.terms:
            _check_room(term, ids, prompts, answer_tokens)
            lacking = term.scorer.without_reference(prompts) if isinstance(term.scorer, RuleScorer) else []
            if lacking:
                count = f"{len(lacking)} of {len(prompts)} prompts have none"
                raise DataError(
                    f"prompt {ids[lacking[0]]}: no reference answer, which rule {term.scorer.name} needs ({count}); "
                    "leave their records out, or use another rule"
                )

    def score(self, ids: Sequence[str], prompts: Sequence[Messages], responses: Sequence[str]) -> Scored:
        """Scores of `n` responses; every scorer is asked once.

        The spread is that of the sum, where the members of different terms vary independently:

            spread = sqrt(Σ_t (w_t spread_t)²)        over the terms that are ensembles

        Args:
            ids: of the prompts' records, for messages; a prompt with several responses repeats.
            prompts: n lists of messages.
            responses: n texts.

        Raises:
            AlignmentError: a scorer raised, or gave a wrong count, or a number that is not finite.
            ValueError: nothing to score, or different lengths.
        """
        if not len(ids) == len(prompts) == len(responses) > 0:
            raise ValueError(f"{len(ids)} ids, {len(prompts)} prompts, {len(responses)} responses")
        total = np.zeros(len(ids), dtype=np.float64)
        variance = np.zeros(len(ids), dtype=np.float64)
        terms: dict[str, npt.NDArray[np.float32]] = {}
        ensembles = 0
        for term in self.terms:
            scores, spread = _asked(term, ids, prompts, responses)
            terms[term.name] = scores
            total += term.weight * scores.astype(np.float64)
            if spread is not None:
                ensembles += 1
                variance += np.square(term.weight * spread.astype(np.float64))
        summed = _finite("the weighted sum", ids, total)
        return Scored(summed, terms, np.sqrt(variance).astype(np.float32) if ensembles else None)


def _check_room(term: Term, ids: Sequence[str], prompts: Sequence[Messages], answer_tokens: int) -> None:
    if not isinstance(term.scorer, LimitedScorer):
        return
    for record, prompt in zip(ids, prompts, strict=True):
        try:
            why = term.scorer.no_room(prompt, answer_tokens)
        except Exception as error:
            text = f"prompt {record}: scorer {term.name} failed ({type(error).__name__}: {_line(error)})"
            raise AlignmentError(text) from error
        if why is not None:
            raise DataError(
                f"prompt {record}: scorer {term.name}: {why}; lower max_prompt_length or max_new_tokens, or take a "
                "model with a longer context"
            )


def _asked(
    term: Term, ids: Sequence[str], prompts: Sequence[Messages], responses: Sequence[str]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32] | None]:
    """What a scorer says, and how much its members disagree; AlignmentError as `CheckedScorer.score`."""
    name = f"scorer {term.name}"
    spread = None
    try:
        if isinstance(term.scorer, SpreadScorer):
            given, spread = term.scorer.score_with_spread(prompts, responses)
        else:
            given = term.scorer.score(prompts, responses)
        scores = np.asarray(given, dtype=np.float64)
    except RowError as error:
        raise AlignmentError(f"prompt {ids[error.row]}: {name}: {error.reason}") from error
    except Exception as error:
        where = _named(ids, _failing(term.scorer, prompts, responses))
        raise AlignmentError(f"{where}: {name} failed ({type(error).__name__}: {_line(error)})") from error
    if scores.shape != (len(ids),):
        what = f"{scores.shape[0]} scores" if scores.ndim == 1 else f"scores of shape {scores.shape}"
        raise AlignmentError(f"{_named(ids, None)}: {name} gave {what} for {len(ids)} responses; it must give one each")
    checked = _finite(name, ids, scores)
    return checked, None if spread is None else _finite(f"the spread of {name}", ids, np.asarray(spread))


def _finite(name: str, ids: Sequence[str], values: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
    with np.errstate(over="ignore"):  # too large for float32 is infinite, and said so
        checked = values.astype(np.float32)
    wrong = np.flatnonzero(~np.isfinite(checked))
    if len(wrong):
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        raise AlignmentError(
            f"prompt {ids[wrong[0]]}{more}: {name} is {values[wrong[0]]}; a score must be finite, as float32"
        )
    return checked


def _failing(scorer: Scorer, prompts: Sequence[Messages], responses: Sequence[str]) -> int | None:
    """The first row that fails by itself: the scorer has failed on all of them together, and does not say where."""
    for row, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        try:
            scorer.score([prompt], [response])
        except Exception:
            return row
    return None


def _named(ids: Sequence[str], row: int | None) -> str:
    if row is not None or len(set(ids)) == 1:
        return f"prompt {ids[row or 0]}"
    return f"prompts {ids[0]} to {ids[-1]}"


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
