"""Direct preference optimisation and its relatives: pairs as rows, batches and an objective."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import product
from typing import Any, NotRequired, TypedDict

import torch
from torch import Tensor
from torch.nn import functional

from alignment.errors import AlignmentError, DataError, RecipeError
from alignment.generation.head import check_head, evaluating
from alignment.training.collate import Batch, pad_rows
from alignment.training.logprobs import token_logprobs, token_logprobs_and_collision
from alignment.training.losses.divergences import DIVERGENCES
from alignment.training.losses.pair_logps import PairLogps, length_desensitised, wpo_weights
from alignment.training.losses.pair_options import (
    IMITATING,
    REFERENCE_FREE,
    SORTING,
    PairOptions,
    is_coupled,
    problem,
    weights_of,
)
from alignment.training.losses.pairs import DPO_LOSSES, options_of, tensors_of
from alignment.training.objectives.objective import Measured
from alignment.training.objectives.pair_scores import Scored, nll_sums, preference_metrics
from alignment.training.tokens import Encoded


class PairRow(TypedDict):
    """A comparison of two responses to one prompt."""

    id: str
    chosen: Encoded
    rejected: Encoded
    weight: float  # > 0: 1 / number of pairs of the record when a ranking was taken apart
    ref_chosen_logps: NotRequired[float]  # nats, log πref(chosen | prompt), reduced as the objective's options say
    ref_rejected_logps: NotRequired[float]
    soft_label: NotRequired[float | None]  # share of the annotators that prefer chosen; None: nobody compared the two
    margin: NotRequired[float | None]  # how much better chosen was called; None: nobody said


def collate_pairs(pairs: Sequence[PairRow], pad_id: int) -> Batch:
    """P pairs as N = 2P rows: chosen, rejected, chosen, rejected, ...

    Adds `row_record` (N,) int64 and `weights` (P,) float32. Where every row has them: `ref_chosen_logps` and
    `ref_rejected_logps`, `soft_labels` and `margins`, (P,) float32 each, NaN for None.
    Raises DataError for a weight that is not positive, a soft label outside [0, 1] or an infinite margin.
    """
    for pair in pairs:
        if not (math.isfinite(pair["weight"]) and pair["weight"] > 0):
            raise DataError(f"record {pair['id']}: a pair needs a positive weight, not {pair['weight']}")
        label, margin = pair.get("soft_label"), pair.get("margin")
        if label is not None and not 0 <= label <= 1:
            raise DataError(f"record {pair['id']}: a soft label lies in [0, 1], not {label}")
        if margin is not None and not math.isfinite(margin):
            raise DataError(f"record {pair['id']}: a margin is a finite number, not {margin}")
    batch = pad_rows([row for pair in pairs for row in (pair["chosen"], pair["rejected"])], pad_id)
    batch["row_record"] = torch.arange(len(pairs)).repeat_interleave(2)
    columns = {"weights": "weight", "soft_labels": "soft_label", "margins": "margin"}
    columns |= {name: name for name in ("ref_chosen_logps", "ref_rejected_logps")}
    for name, column in columns.items():
        if all(column in pair for pair in pairs):
            values: list[Any] = [pair[column] for pair in pairs]  # type: ignore[literal-required]
            batch[name] = torch.tensor([math.nan if v is None else v for v in values], dtype=torch.float32)
    batch["ids"] = [pair["id"] for pair in pairs]
    return batch


def shared_lengths(chosen: Encoded, rejected: Encoded) -> tuple[Encoded, Encoded]:
    """Both responses up to as many scored tokens as the shorter one has.

    Their log-probabilities are the first sum of `length_desensitised`, for a reference that is kept by row.
    """
    shared = min(sum(chosen.completion_mask), sum(rejected.completion_mask))

    def cut(row: Encoded) -> Encoded:
        end = [place for place, scored in enumerate(row.completion_mask, start=1) if scored][shared - 1]
        return replace(row, completion_ids=row.completion_ids[:end], completion_mask=row.completion_mask[:end])

    return cut(chosen), cut(rejected)


@dataclass(frozen=True)
class DPOObjective:
    """A loss on pairs (PairRows), or a mix of several.

        loss = Σ_p weight_p · wpo_p · Σ_i mix_i · L_i(pair p) / Σ_p weight_p

    L_i are rows of DPO_LOSSES. Losses without a reference (`REFERENCE_FREE`) neither need nor read one.
    """

    pad_id: int
    beta: float = 0.1
    loss_type: str | Mapping[str, float] = "sigmoid"  # one loss, or losses with their weights (MPO)
    label_smoothing: float = 0.0
    options: PairOptions = field(default_factory=PairOptions)
    gathers = False

    def __post_init__(self) -> None:
        wrong = problem(self.loss_type, self.label_smoothing, self.options)
        if wrong is not None:
            raise RecipeError(wrong)

    @property
    def losses(self) -> dict[str, float]:
        return weights_of(self.loss_type)

    @property
    def needs_reference(self) -> bool:
        return not self.losses.keys() <= REFERENCE_FREE

    @property
    def coupled(self) -> bool:
        """Whether a pair's loss depends on the other pairs of its batch."""
        return is_coupled(self.loss_type, self.options)

    @property
    def batchwise(self) -> bool:
        """Whether the loss is a function of batches: of quantiles or a mean reward. An NLL over tokens is not."""
        return is_coupled(self.loss_type, self.options.model_copy(update={"nll_average": "responses"}))

    @property
    def columns(self) -> tuple[str, ...]:
        return (
            *("id", "chosen", "rejected", "weight"),
            *(("ref_chosen_logps", "ref_rejected_logps") if self.needs_reference else ()),
            *(("soft_label",) if self.options.use_soft_labels else ()),
            *(("margin",) if self.options.margin_scale is not None else ()),
        )

    def refuse(self, rows: Sequence[Any]) -> None:
        """Raises DataError, naming the record, for a pair that the losses cannot learn from."""
        sorting = SORTING & self.losses.keys()
        for row in rows:
            if self.options.use_soft_labels and row.get("soft_label") is None:
                raise DataError(f"record {row['id']}: nobody compared chosen and rejected; there is no soft label")
            if sorting and row["weight"] != 1:
                raise DataError(
                    f"record {row['id']}: {min(sorting)} compares quantiles, which belong to no pair, so that it "
                    f"cannot weigh one by {row['weight']:g}; take one pair of each record (pairs: best_worst)"
                )

    def collate(self, rows: Sequence[Any]) -> Batch:
        self.refuse(rows)
        return collate_pairs(rows, self.pad_id)

    def weight(self, batch: Batch) -> Tensor:
        weights: Tensor = batch["weights"]
        return weights.sum()

    def loss(self, model: Any, batch: Batch) -> Measured:
        """Weighted mean of the pairs' losses; the metrics have TRL's names and the pairs' weights.

        Rewards are those of the first preference loss; `logps/...` are sums over tokens, whatever the loss averages, of
        which `ld_alpha` weighs the longer response's tail, as in TRL. With a mix, `losses/NAME` is each loss by itself.
        `nll_loss` is a mean over tokens; an NLL over the batch's tokens has its own term in `loss` and `losses/NAME`.
        """
        scored = self._score(model, batch)
        weights: Tensor = batch["weights"]
        wpo = 1.0 if scored.weights is None else scored.weights
        each = self._each(scored, batch)
        own = self._each(scored.without_nll(), batch) if self._nll_by_tokens else each  # what is a pair's own
        losses = self._mixed(each) * wpo
        values = {"loss": (self._mixed(own) * wpo).detach()}
        values |= preference_metrics(self.losses, scored.logps, self.beta)
        if len(own) > 1:
            values |= {f"losses/{name}": value.detach() for name, value in own.items()}
        nll, tokens = nll_sums(self.losses, self.options, scored, weights)
        sums = {name: weights * value for name, value in values.items()} | nll
        counts = dict.fromkeys(values, weights) | tokens
        return Measured((weights * losses).sum() / weights.sum(), sums, counts)

    def check_start(self, model: Any, batch: Batch, tolerance: float) -> None:
        """At the start policy and reference are the same model, so every log-ratio is 0.

        Raises AlignmentError when a scored token's log-probability differs from the reference's by more than
        `tolerance` nats on average, or the loss from its value at log-ratio 0 (ln 2 for the sigmoid loss) by more than
        such a difference explains. Without a reference a policy may start anywhere.
        """
        check_head(model)
        if not self.needs_reference:
            return
        with evaluating(model):
            scored = self._score(model, batch)
            logps = scored.logps
            (ref_chosen, ref_rejected), counts = logps.reference, (logps.chosen_tokens, logps.rejected_tokens)
            per_token = [(logps.chosen_ratio / counts[0]).abs(), (logps.rejected_ratio / counts[1]).abs()]
            drift = float(torch.cat(per_token).mean())

            def first(chosen: Tensor, rejected: Tensor) -> Tensor:
                moved = scored._replace(logps=logps._replace(chosen=chosen, rejected=rejected))
                return self._mixed(self._each(moved, batch))

            losses, at_zero = first(logps.chosen, logps.rejected), first(ref_chosen, ref_rejected)
            apart = [tolerance * tokens for tokens in counts]
            corners = [
                first(ref_chosen + a * apart[0], ref_rejected + b * apart[1]) for a, b in product((-1, 1), repeat=2)
            ]
            allowed = max(float((corner - at_zero).abs().mean()) for corner in corners) + 1e-6
            off = float((losses - at_zero).abs().mean())
        if not (drift <= tolerance and off <= allowed):
            raise AlignmentError(
                f"the reference is not the starting policy: log-probabilities differ by {drift:.2g} nats per token "
                f"(allowed {tolerance:g}), first loss {float(losses.mean()):.4f} instead of "
                f"{float(at_zero.mean()):.4f}; give the stage the same model as policy and reference"
            )

    @property
    def _with_prompt(self) -> bool:
        return self.options.prompt_nll and "orpo" in self.losses

    @property
    def _nll_by_tokens(self) -> bool:
        """Whether a pair's NLL term depends on the tokens of the other pairs."""
        return self.options.nll_average == "tokens" and bool(IMITATING & self.losses.keys())

    def _score(self, model: Any, batch: Batch) -> Scored:
        scored = batch["completion_mask"][:, 1:].bool()  # (2P, T-1)
        asked = scored
        if self._with_prompt:
            chosen = torch.zeros_like(scored)
            chosen[0::2] = batch["attention_mask"][0::2, 1:].bool()
            asked = scored | chosen
        read = {**batch, "completion_mask": functional.pad(asked, (1, 0))}
        weights = None
        if self.options.use_weighting:
            tokens, collision = token_logprobs_and_collision(model, read)
            weights = wpo_weights(tokens, collision, scored)
        else:
            tokens = token_logprobs(model, read)
        prompts = (asked & ~scored)[0::2]
        response = tokens.masked_fill(~scored, 0.0)
        sums, counts = response.sum(dim=1), scored.sum(dim=1).float()
        alpha = self.options.ld_alpha
        said = sums if alpha is None else length_desensitised(response, scored, alpha)
        reference = (batch["ref_chosen_logps"], batch["ref_rejected_logps"]) if self.needs_reference else (None, None)
        return Scored(
            PairLogps(said[0::2], said[1::2], counts[0::2], counts[1::2], *reference),
            nll=-sums[0::2],
            prompt_nll=-tokens[0::2].masked_fill(~prompts, 0.0).sum(dim=1),
            prompt_tokens=prompts.sum(dim=1).float(),
            weights=weights,
        )

    def _each(self, scored: Scored, batch: Batch) -> dict[str, Tensor]:
        """(P,) losses of the mix, each by itself."""
        return {name: self._loss(name, scored, batch) for name in self.losses}

    def _loss(self, name: str, scored: Scored, batch: Batch) -> Tensor:
        """(P,) losses of one row of the table."""
        given = scored.imitated(name == "orpo" and self._with_prompt) | {"weights": batch["weights"]}
        if self.options.use_soft_labels:
            given["soft_labels"] = batch["soft_labels"]
        if self.options.margin_scale is not None:
            given["margins"] = batch["margins"]
        divergence = DIVERGENCES[self.options.f_divergence]
        if self.options.f_divergence == "alpha_divergence":
            divergence = partial(divergence, alpha=self.options.f_alpha_divergence_coef)
        known = {
            **self.options.model_dump(exclude_none=True),
            "beta": self.beta,
            "label_smoothing": self.label_smoothing,
            "f_divergence": divergence,
        }
        tensors = {key: given[key] for key in tensors_of(name) if key in given}
        options = {key: known[key] for key in options_of(name) if key in known}
        return DPO_LOSSES[name](scored.logps, **tensors, **options)

    def _mixed(self, each: Mapping[str, Tensor]) -> Tensor:
        return torch.stack([mix * each[name] for name, mix in self.losses.items()]).sum(dim=0)
