"""TRL is the oracle: the same token batch must give the same loss and the same gradients.

What TRL does not have: tests/training/losses/test_pairs.py.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from oracle import PAD, assert_same_gradients, encoded, policy, pretrained, reference_rows, rows

from alignment.training.losses.pair_options import PairOptions, weights_of
from alignment.training.metrics import Meter
from alignment.training.objectives.objective import Measured
from alignment.training.objectives.pairs import DPOObjective

# peft reads an attribute that transformers renamed
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

RAW = rows()
NOISE = 0.2  # log-ratios of a few nats


@pytest.fixture(scope="module")
def quiet_trl(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """Arguments that make TRL run on the CPU in float32, silently."""
    from trl.trainer import base_trainer

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(base_trainer, "send_telemetry", lambda *a, **k: None)
        patch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
        yield {
            "output_dir": str(tmp_path_factory.mktemp("trl")),
            "use_cpu": True,
            "report_to": "none",
            "disable_tqdm": True,
            "bf16": False,
            "dataloader_pin_memory": False,
            "max_length": None,
        }


def never_read() -> Any:
    from datasets import Dataset

    return Dataset.from_list([{"prompt": "a", "chosen": "b", "rejected": "c"}])


def tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def dpo_trainer(tiny_model_dir: Path, quiet_trl: dict[str, Any]) -> Any:
    from trl import DPOConfig, DPOTrainer

    # WPO's extra outputs exist only when the trainer is built with them
    arguments = DPOConfig(**quiet_trl, activation_checkpointing=False, use_weighting=True)
    return DPOTrainer(
        policy(tiny_model_dir, NOISE),
        ref_model=pretrained(tiny_model_dir),
        args=arguments,
        train_dataset=never_read(),
        processing_class=tokenizer(tiny_model_dir),
    )


MIX = {"sigmoid": 0.8, "bco_pair": 0.2, "sft": 1.0}
LIKE_TRL: list[tuple[str | dict[str, float], float, dict[str, Any]]] = [
    *((name, 0.0, {}) for name in ("sigmoid", "sigmoid_norm", "hinge", "ipo", "nca_pair", "bco_pair", "sppo_hard")),
    *((name, 0.0, {}) for name in ("robust", "apo_zero", "apo_down", "discopop", "aot", "aot_unpaired")),
    *((name, 0.1, {}) for name in ("robust", "exo_pair", "aot", "aot_unpaired")),
    ("discopop", 0.0, {"discopop_tau": 0.4}),
    *(("sigmoid", 0.0, {"f_divergence": name}) for name in ("forward_kl", "js_divergence", "alpha_divergence")),
    ("ipo", 0.0, {"f_divergence": "alpha_divergence", "f_alpha_divergence_coef": 0.2}),
    *(("sigmoid", 0.0, {"ld_alpha": alpha}) for alpha in (0.0, 0.3)),
    ("ipo", 0.0, {"ld_alpha": 0.3}),
    *((name, 0.0, {"use_weighting": True}) for name in ("sigmoid", "nca_pair")),
    (MIX, 0.0, {}),
    ({"sigmoid": 1.0, "sft": 0.2}, 0.0, {"ld_alpha": 0.3, "f_divergence": "js_divergence"}),
]


def metrics(measured: Measured) -> dict[str, float]:
    meter = Meter()
    meter.add(measured.sums, measured.counts)
    return meter.ratios()


def ask_trl(trainer: Any, loss: str | Mapping[str, float], label_smoothing: float, options: PairOptions) -> None:
    """The trainer's settings are plain attributes that its loss reads."""
    losses = weights_of(loss)
    trainer.beta, trainer.label_smoothing = 0.3, label_smoothing
    trainer.loss_types, trainer.loss_weights = list(losses), list(losses.values())
    trainer.f_divergence_type, trainer.ld_alpha = options.f_divergence, options.ld_alpha
    trainer.f_alpha_divergence_coef = options.f_alpha_divergence_coef
    trainer.args.discopop_tau, trainer.use_weighting = options.discopop_tau, options.use_weighting
    trainer.model.zero_grad()
    trainer._metrics["train"].clear()


@pytest.mark.parametrize(("loss", "label_smoothing", "given"), LIKE_TRL)
def test_value_and_gradient_equal_trl(
    tiny_model_dir: Path, dpo_trainer: Any, loss: Any, label_smoothing: float, given: dict[str, Any]
) -> None:
    options = PairOptions(**given)
    objective = DPOObjective(PAD, 0.3, loss, label_smoothing, options)
    ask_trl(dpo_trainer, loss, label_smoothing, options)
    ours, theirs = policy(tiny_model_dir, NOISE), dpo_trainer.model
    expected = dpo_trainer.compute_loss(theirs, dpo_trainer.data_collator(RAW))
    measured = objective.loss(ours, objective.collate(reference_rows(tiny_model_dir, RAW, options.ld_alpha)))
    torch.testing.assert_close(measured.loss, expected, rtol=2e-6, atol=1e-7)
    expected.backward()
    measured.loss.backward()  # type: ignore[no-untyped-call]
    assert_same_gradients(ours, theirs)

    logged = {name: values[-1] for name, values in dpo_trainer._metrics["train"].items()}
    found = metrics(measured)
    assert found["loss"] == pytest.approx(expected.item(), rel=1e-5)
    for name in found.keys() & logged.keys():
        assert found[name] == pytest.approx(logged[name], rel=1e-5, abs=1e-6), name
    assert {"rewards/chosen", "rewards/accuracies", "rewards/margins", "logps/rejected"} <= found.keys() & logged.keys()


def trl_batch(raw: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """What the collators of TRL's CPO and ORPO trainers make of pairs."""

    def padded(values: list[list[int]], padding: int) -> torch.Tensor:
        width = max(map(len, values))
        return torch.tensor([row + [padding] * (width - len(row)) for row in values])

    batch: dict[str, torch.Tensor] = {}
    for side in ("chosen", "rejected"):
        whole = [row["prompt_ids"] + row[f"{side}_ids"] for row in raw]
        labels = [[-100] * len(row["prompt_ids"]) + row[f"{side}_ids"] for row in raw]
        batch[f"{side}_input_ids"] = padded(whole, PAD)
        batch[f"{side}_attention_mask"] = padded([[1] * len(row) for row in whole], 0)
        batch[f"{side}_labels"] = padded(labels, -100)
    return batch


@pytest.mark.parametrize(
    ("name", "given", "loss", "label_smoothing", "options"),
    [
        ("simpo", {"loss_type": "simpo", "simpo_gamma": 0.7, "cpo_alpha": 0.0}, "simpo", 0.1, {"simpo_gamma": 0.7}),
        ("simpo", {"loss_type": "simpo", "cpo_alpha": 0.4}, {"simpo": 1.0, "sft": 0.4}, 0.0, {}),  # CPO-SimPO
        ("cpo", {"loss_type": "sigmoid", "cpo_alpha": 0.6}, "cpo", 0.1, {"cpo_alpha": 0.6}),
        ("orpo", {}, "orpo", 0.0, {}),
    ],
)
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_losses_without_a_reference_equal_trl(
    tiny_model_dir: Path,
    quiet_trl: dict[str, Any],
    name: str,
    given: Any,
    loss: Any,
    label_smoothing: float,
    options: Any,
) -> None:
    from trl.experimental import cpo, orpo

    ours, theirs = policy(tiny_model_dir, NOISE), policy(tiny_model_dir, NOISE)
    made = {"beta": 1.5, "max_length": 512} | given
    if name == "orpo":
        trainer_type, arguments = orpo.ORPOTrainer, orpo.ORPOConfig(**quiet_trl | made)
    else:
        trainer_type = cpo.CPOTrainer
        arguments = cpo.CPOConfig(**quiet_trl | made | {"label_smoothing": label_smoothing})
    trainer = trainer_type(
        theirs, args=arguments, train_dataset=never_read(), processing_class=tokenizer(tiny_model_dir)
    )
    expected, logged = trainer.get_batch_loss_metrics(theirs.train(), trl_batch(RAW))
    objective = DPOObjective(PAD, 1.5, loss, label_smoothing, PairOptions(**options))
    pairs = [
        {"id": "a", "weight": 1.0} | {s: encoded(row["prompt_ids"], row[f"{s}_ids"]) for s in ("chosen", "rejected")}
        for row in RAW
    ]
    assert set(objective.columns) == {"id", "chosen", "rejected", "weight"}
    measured = objective.loss(ours, objective.collate(pairs))
    torch.testing.assert_close(measured.loss, expected, rtol=2e-6, atol=1e-7)
    expected.backward()
    measured.loss.backward()  # type: ignore[no-untyped-call]
    assert_same_gradients(ours, theirs)

    found = metrics(measured)
    assert found["loss"] == pytest.approx(expected.item(), rel=1e-5)
    same = {key for key in found.keys() & logged.keys() if not key.startswith("logps/") or name == "cpo"}
    for key in same - {"nll_loss"} if given.get("cpo_alpha") == 0 else same:
        assert found[key] == pytest.approx(logged[key], rel=1e-5, abs=1e-6), key
    wanted = {"orpo": {"nll_loss", "log_odds_ratio", "log_odds_chosen"}, "cpo": {"nll_loss"}}.get(name, set())
    assert wanted | {"rewards/margins"} <= same
