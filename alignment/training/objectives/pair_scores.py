"""What a model says about a batch of pairs, and the metrics that come of it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from alignment.training.losses.pair_logps import PairLogps
from alignment.training.losses.pair_options import IMITATING, PairOptions
from alignment.training.losses.pairs import implicit_rewards
from alignment.training.losses.unreferenced import log_odds_ratio
from alignment.training.metrics import term
from alignment.training.objectives.objective import ordered_right


class Scored(NamedTuple):
    """What a model says about a batch of pairs."""

    logps: PairLogps
    nll: Tensor  # (P,) -log πθ of the chosen response, nats
    prompt_nll: Tensor  # (P,) ... of its prompt, where a loss asks for that, else 0
    prompt_tokens: Tensor  # (P,)
    weights: Tensor | None  # (P,), WPO

    def imitated(self, with_prompt: bool) -> dict[str, Tensor]:
        """The `nll` and `nll_tokens` that losses read."""
        if not with_prompt:
            return {"nll": self.nll, "nll_tokens": self.logps.chosen_tokens}
        return {"nll": self.nll + self.prompt_nll, "nll_tokens": self.logps.chosen_tokens + self.prompt_tokens}

    def without_nll(self) -> Scored:
        """The same with nothing to imitate: a loss of it is the loss without its NLL term."""
        return self._replace(nll=torch.zeros_like(self.nll), prompt_nll=torch.zeros_like(self.prompt_nll))


def preference_metrics(losses: Collection[str], logps: PairLogps, beta: float) -> dict[str, Tensor]:
    """(P,) values each, under TRL's names; rewards are those of the first of `losses` that prefers something."""
    preference = next(name for name in losses if name != "sft")
    chosen, rejected = implicit_rewards(preference, logps, beta)
    values = {
        "rewards/chosen": chosen,
        "rewards/rejected": rejected,
        "rewards/accuracies": ordered_right(chosen - rejected),
        "rewards/margins": chosen - rejected,
        "logps/chosen": logps.chosen.detach(),
        "logps/rejected": logps.rejected.detach(),
    }
    if "orpo" in losses:
        log_odds = log_odds_ratio(logps).detach()
        values |= {"log_odds_chosen": log_odds, "log_odds_ratio": functional.logsigmoid(log_odds)}
    return values


def nll_sums(
    losses: Mapping[str, float], options: PairOptions, scored: Scored, weights: Tensor
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Sums and counts (P,) of `nll_loss`; and those of the losses' NLL terms, where their mean is over tokens.

    Nothing for `losses` (names and weights in the mix) without such a term.
    """
    with_prompt = options.prompt_nll and "orpo" in losses
    sums: dict[str, Tensor] = {}
    counts: dict[str, Tensor] = {}
    for name in (name for name in losses if name in IMITATING):
        said = scored.imitated(with_prompt)
        sums["nll_loss"], counts["nll_loss"] = weights * said["nll"].detach(), weights * said["nll_tokens"]
        if options.nll_average != "tokens":
            continue
        said = scored.imitated(with_prompt and name == "orpo")
        share = options.cpo_alpha if name == "cpo" else 1.0
        shared, tokens = share * weights * said["nll"].detach(), weights * said["nll_tokens"]
        sums[term("loss", name)], counts[term("loss", name)] = losses[name] * shared, tokens
        if len(losses) > 1:
            sums[term(f"losses/{name}", "nll")], counts[term(f"losses/{name}", "nll")] = shared, tokens
    return sums, counts
