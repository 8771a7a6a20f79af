"""The table of what goes with what, which is known without torch, agrees with the functions."""

from typing import Any

import pytest
from pydantic import ValidationError

from alignment.training.losses.divergences import DIVERGENCES
from alignment.training.losses.pair_options import LOSSES, REFERENCE_FREE, PairOptions, is_coupled, problem
from alignment.training.losses.pairs import DPO_LOSSES, options_of, tensors_of

OF_THE_OBJECTIVE = {"ld_alpha", "use_weighting", "use_soft_labels", "prompt_nll", "f_alpha_divergence_coef"}


def test_losses_read_what_the_table_says() -> None:
    assert list(LOSSES) == list(DPO_LOSSES)
    for name, reads in LOSSES.items():
        assert set(options_of(name)) == reads - OF_THE_OBJECTIVE, name
        assert ("f_divergence" in reads) == ("f_alpha_divergence_coef" in reads), name
        assert ("soft_labels" in tensors_of(name)) == ("use_soft_labels" in reads), name
        assert ("margins" in tensors_of(name)) == ("margin_scale" in reads), name
        assert ("nll" in tensors_of(name)) == ("nll_average" in reads), name
        assert ("ld_alpha" in reads) == (name not in REFERENCE_FREE), name
    known = set(PairOptions.model_fields) | {"beta", "label_smoothing"}
    assert set().union(*LOSSES.values()) == known
    assert set(PairOptions.model_fields["f_divergence"].annotation.__args__) == set(DIVERGENCES)  # type: ignore[union-attr]


def test_defaults_are_those_of_the_functions() -> None:
    for name, field in PairOptions.model_fields.items():
        if name not in OF_THE_OBJECTIVE | {"f_divergence", "margin_scale"}:
            for loss in DPO_LOSSES:
                assert options_of(loss).get(name, field.default) == field.default, (name, loss)


@pytest.mark.parametrize(
    ("loss", "given", "wrong"),
    [
        ("sigmod", {}, "unknown loss 'sigmod'; nearest: sigmoid"),
        ({"sigmoid": 1.0, "stf": 0.1}, {}, "unknown loss 'stf'; nearest: sft"),
        ({"sigmoid": 0.0}, {}, "the weight of sigmoid must be a positive number, not 0.0"),
        ({"sigmoid": float("nan")}, {}, "must be a positive number"),
        ({"sigmoid": "much"}, {}, "the weight of sigmoid must be a positive number, not 'much'"),
        ({}, {}, "sft prefers nothing by itself"),
        ("sft", {}, "sft prefers nothing by itself; mix it with a preference loss"),
        ("ipo", {"label_smoothing": 0.1}, "ipo does not read label_smoothing, only sigmoid, robust, exo_pair, aot"),
        ("sigmoid", {"simpo_gamma": 0.2}, "sigmoid does not read simpo_gamma, only simpo; leave it out"),
        ("hinge", {"use_soft_labels": True}, "hinge does not read use_soft_labels, only sigmoid"),
        ("dpop", {"margin_scale": 1.0}, "dpop does not read margin_scale, only sigmoid"),
        ("nca_pair", {"f_divergence": "forward_kl"}, "nca_pair does not read f_divergence, only sigmoid, "),
        ({"sigmoid": 1, "bco_pair": 1}, {"f_divergence": "forward_kl"}, "bco_pair does not read f_divergence"),
        ({"sigmoid": 1, "simpo": 1}, {"ld_alpha": 0.5}, "simpo does not read ld_alpha"),
        ("cpo", {"ld_alpha": 0.5}, "cpo does not read ld_alpha"),
        ("aot", {"use_weighting": True}, "aot does not read use_weighting"),
        ({"sigmoid": 1, "sft": 1}, {"use_weighting": True}, "sft does not read use_weighting"),
        ("sigmoid", {"f_alpha_divergence_coef": 0.3}, "belongs to f_divergence: alpha_divergence"),
        ("sigmoid", {"use_soft_labels": True, "label_smoothing": 0.1}, "both say how sure the annotators are"),
        ("exo_pair", {}, "exo_pair needs label_smoothing above 0; its authors use 0.001"),
        ("sigmoid", {"nll_average": "responses"}, "sigmoid does not read nll_average, only cpo, orpo, sft"),
    ],
)
def test_what_has_no_effect_or_contradicts_is_named(loss: Any, given: dict[str, Any], wrong: str) -> None:
    smoothing = given.get("label_smoothing", 0.0)
    options = PairOptions(**{name: value for name, value in given.items() if name != "label_smoothing"})
    found = problem(loss, smoothing, options)
    assert found is not None
    assert wrong in found


@pytest.mark.parametrize(
    ("loss", "smoothing", "given"),
    [
        ("sigmoid", 0.1, {"f_divergence": "alpha_divergence", "f_alpha_divergence_coef": 0.3}),
        ({"sigmoid": 0.8, "bco_pair": 0.2, "sft": 1}, 0.1, {"nll_average": "responses"}),
        ({"sigmoid": 1, "sft": 1}, 0.0, {"f_divergence": "js_divergence", "ld_alpha": 0.0}),
        ({"sigmoid": 1, "hinge": 1}, 0.0, {"use_soft_labels": True, "margin_scale": 2.0, "use_weighting": True}),
        ("orpo", 0.0, {"prompt_nll": False}),
        ("exo_pair", 1e-3, {}),
        ("simpo", 0.1, {"simpo_gamma": 0.0}),
    ],
)
def test_what_goes_together_passes(loss: Any, smoothing: float, given: dict[str, Any]) -> None:
    assert problem(loss, smoothing, PairOptions(**given)) is None


def test_an_option_outside_its_range_is_refused() -> None:
    for wrong in ({"ld_alpha": 1.5}, {"discopop_tau": 0.0}, {"margin_scale": -1.0}, {"f_divergence": "kl"}):
        with pytest.raises(ValidationError):
            PairOptions(**wrong)  # type: ignore[arg-type]


def test_what_couples_the_pairs_of_a_batch() -> None:
    alone = PairOptions(nll_average="responses")
    coupled = {name for name in LOSSES if is_coupled(name, PairOptions())}
    assert coupled == {"aot", "aot_unpaired", "sft", "cpo", "orpo"}
    assert {name for name in LOSSES if is_coupled(name, alone)} == {"aot", "aot_unpaired"}
    assert is_coupled("bco_pair", PairOptions(reward_shift=True))
    assert is_coupled({"sigmoid": 1.0, "sft": 0.1}, PairOptions())
    assert not is_coupled({"sigmoid": 1.0, "sft": 0.1}, alone)
