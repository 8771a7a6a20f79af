"""Which loss on pairs reads which option, and what cannot be combined. Free of torch: a recipe is checked by it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from alignment.errors import nearest


class PairOptions(BaseModel):
    """Knobs that not every loss on pairs reads, under the field's names."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    # What the implicit reward is made of
    f_divergence: Literal["reverse_kl", "forward_kl", "js_divergence", "alpha_divergence"] = "reverse_kl"
    f_alpha_divergence_coef: float = 0.5  # of alpha_divergence; 0 is forward_kl, 1 is reverse_kl
    ld_alpha: float | None = Field(None, ge=0, le=1)  # LD-DPO: weight of the tokens by which one response is longer
    # What annotators said
    use_soft_labels: bool = False  # the target is the share of annotators that prefer `chosen`, not 1
    margin_scale: float | None = Field(None, gt=0)  # ODPO: offset per unit of stated strength; None: no offset
    use_weighting: bool = False  # WPO: pairs weigh by their probability under the policy
    # Of single losses
    discopop_tau: float = Field(0.05, gt=0)
    dpop_lambda: float = Field(50.0, ge=0)
    reward_shift: bool = False  # bco_pair: rewards are measured from their mean in the batch
    simpo_gamma: float = Field(0.5, ge=0)
    cpo_alpha: float = Field(1.0, ge=0)  # weight of the NLL term
    prompt_nll: bool = True  # orpo: the NLL term covers the prompt too
    nll_average: Literal["tokens", "responses"] = "tokens"  # over the batch's tokens, or over each response's first

    def changed(self) -> dict[str, Any]:
        """The options that are not at their default."""
        fields = type(self).model_fields
        return {name: value for name in fields if (value := getattr(self, name)) != fields[name].default}


_RATIO = frozenset({"beta", "ld_alpha", "use_weighting"})  # what every loss of a pair's two log-ratios reads
_DIFFERENCE = _RATIO | {"f_divergence", "f_alpha_divergence_coef"}  # ... and of their difference alone

# The rows of `losses.pairs.DPO_LOSSES` and what each reads; a test holds them equal to the functions' signatures.
LOSSES: dict[str, frozenset[str]] = {
    "sigmoid": _DIFFERENCE | {"label_smoothing", "use_soft_labels", "margin_scale"},
    "sigmoid_norm": _DIFFERENCE,
    "hinge": _DIFFERENCE,
    "ipo": _DIFFERENCE,
    "robust": _DIFFERENCE | {"label_smoothing"},
    "exo_pair": _DIFFERENCE | {"label_smoothing"},
    "discopop": _DIFFERENCE | {"discopop_tau"},
    "dpop": _RATIO | {"dpop_lambda"},
    "nca_pair": _RATIO,
    "bco_pair": _RATIO | {"reward_shift"},
    "sppo_hard": _RATIO,
    "apo_zero": _RATIO,
    "apo_down": _RATIO,
    "aot": frozenset({"beta", "ld_alpha", "label_smoothing"}),
    "aot_unpaired": frozenset({"beta", "ld_alpha", "label_smoothing"}),
    "simpo": frozenset({"beta", "label_smoothing", "simpo_gamma"}),
    "cpo": frozenset({"beta", "label_smoothing", "cpo_alpha", "nll_average"}),
    "orpo": frozenset({"beta", "prompt_nll", "nll_average"}),
    "sft": frozenset({"nll_average"}),
}
REFERENCE_FREE = frozenset({"simpo", "cpo", "orpo", "sft"})  # these never see a reference policy
SORTING = frozenset({"aot", "aot_unpaired"})  # these compare quantiles of the batch, which belong to no pair
IMITATING = frozenset({"cpo", "orpo", "sft"})  # these have an NLL term
_OF_ALL = ("f_divergence", "ld_alpha", "use_weighting")  # they change what the losses of a mix are given


def weights_of(loss: str | Mapping[str, float]) -> dict[str, float]:
    """A recipe's `loss` as losses with their weights: one name, or a mix."""
    return {loss: 1.0} if isinstance(loss, str) else dict(loss)


def is_coupled(loss: str | Mapping[str, float], options: PairOptions) -> bool:
    """Whether a pair's loss depends on the other pairs of its batch: quantiles, a batch's mean reward or tokens."""
    losses = weights_of(loss).keys()
    by_tokens = options.nll_average == "tokens" and bool(IMITATING & losses)
    return bool(SORTING & losses) or by_tokens or ("bco_pair" in losses and options.reward_shift)


def wrong_losses(loss: str | Mapping[Any, Any]) -> str | None:
    """What is wrong with a recipe's `loss` by itself, in a line, or None."""
    losses = weights_of(loss)
    for name, weight in losses.items():
        if name not in LOSSES:
            return f"unknown loss {name!r}{nearest(str(name), LOSSES)}"
        if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not 0 < weight < math.inf:
            return f"the weight of {name} must be a positive number, not {weight!r}"
    if not losses.keys() - {"sft"}:
        return "sft prefers nothing by itself; mix it with a preference loss, or use an sft stage"
    return None


def problem(loss: str | Mapping[str, float], label_smoothing: float, options: PairOptions) -> str | None:
    """What is wrong with a choice of losses and options, in a line, or None."""
    wrong = wrong_losses(loss)
    if wrong is not None:
        return wrong
    losses = weights_of(loss)
    given = options.changed() | ({"label_smoothing": label_smoothing} if label_smoothing else {})
    return _unread(losses, given) or _contradiction(losses, label_smoothing, options)


def _unread(losses: Mapping[str, float], given: Mapping[str, Any]) -> str | None:
    """An option that nothing reads, or that a loss of the mix has no meaning for."""
    for name in given:
        strangers = [loss for loss in losses if name not in LOSSES[loss]]
        # the sft term has no log-ratio that a divergence or a length could change
        unfit = [loss for loss in strangers if loss != "sft" or name == "use_weighting"]
        if strangers and (len(strangers) == len(losses) or (name in _OF_ALL and unfit)):
            readers = ", ".join(loss for loss, reads in LOSSES.items() if name in reads)
            return f"{(unfit or strangers)[0]} does not read {name}, only {readers}; leave it out"
    return None


def _contradiction(losses: Mapping[str, float], label_smoothing: float, options: PairOptions) -> str | None:
    if "f_alpha_divergence_coef" in options.changed() and options.f_divergence != "alpha_divergence":
        return "f_alpha_divergence_coef belongs to f_divergence: alpha_divergence; set that or leave it out"
    if options.use_soft_labels and label_smoothing:
        return "use_soft_labels and label_smoothing both say how sure the annotators are; keep one"
    if "exo_pair" in losses and not label_smoothing:
        return "exo_pair needs label_smoothing above 0; its authors use 0.001"
    return None
