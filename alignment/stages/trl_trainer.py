"""The trainer of RLOO and GRPO: a mixin before TRL's.

TRL draws the answers, turns scores into advantages and takes the steps. What is here around it: where the reference
comes from, that answers are drawn and scored by the policy alone, an order of prompts and a checkpoint from which a
killed run goes on exactly, and no telemetry.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import Sampler
from transformers import GenerationConfig, PrinterCallback, TrainerState
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import TrainOutput

from alignment.errors import AlignmentError
from alignment.stages.prompts import PromptRow
from alignment.training.checkpoints import WholeCheckpoints
from alignment.training.optimizers import WarmsUp
from alignment.training.sampling import epoch_seed
from alignment.training.stopping import was_over
from alignment.training.trainer import START_TOLERANCE, START_TOLERANCE_LOW_PRECISION


class GroupSampler(Sampler[int]):
    """Which prompt each answer of an epoch belongs to: a shuffled step's prompts, `group` times each, `repeats` times.

    TRL's order, except that an epoch's order belongs to the seed and the epoch, whatever was read before. Prompts that
    do not fill a step are left out of the epoch.
    """

    def __init__(self, n_rows: int, per_step: int, group: int, repeats: int, seed: int) -> None:
        self._n_rows, self._per_step, self._group, self._repeats = n_rows, per_step, group, repeats
        self._seed = seed
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Says which epoch the next iteration reads."""
        self._epoch = epoch

    def __len__(self) -> int:
        return self._n_rows // self._per_step * self._per_step * self._group * self._repeats

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(epoch_seed(self._seed, self._epoch))
        order = torch.randperm(self._n_rows, generator=generator).tolist()
        for start in range(0, self._n_rows // self._per_step * self._per_step, self._per_step):
            for _ in range(self._repeats):
                yield from (row for row in order[start : start + self._per_step] for _ in range(self._group))


class OnPolicyTrainer(WholeCheckpoints, WarmsUp):
    """A mixin before TRL's RLOOTrainer or GRPOTrainer."""

    model: Any
    eos_token_ids: list[int]
    current_gradient_accumulation_steps: int
    _metrics: dict[str, Any]

    def __init__(self, model: Any, reference: Any, args: Any, reward: Any, rows: Sequence[PromptRow], **kwargs: Any):
        """Prepares training.

        Args:
            model: the policy, a transformers model or a PeftModel with a fresh adapter.
            reference: the starting policy when all weights are trained and `args.beta` is above 0, else None: the
                reference is then `model` with its adapter off.
            args: an RLOOConfig or a GRPOConfig.
            reward: called as TRL calls a reward function; its `end_ids` are set to the tokens that end an answer.
            rows: the prompts.
            kwargs: `processing_class`, `callbacks`.

        Raises:
            AlignmentError: several GPUs visible to one process.
        """
        if args.n_gpu > 1:
            raise AlignmentError(
                f"{args.n_gpu} GPUs are visible, and a recipe trains on one; show it one with CUDA_VISIBLE_DEVICES=0"
            )
        data = Dataset.from_list([{"prompt": row.messages, "id": row.id} for row in rows])
        self._order: GroupSampler | None = None
        self._start_checked = False
        self._takes_positions = "position_ids" in inspect.signature(_causal(model).forward).parameters
        # TRL would load the reference from the path in the model's config, where another model may be by now; ours have
        # no path there. With beta 0 it looks for none.
        beta, args.beta = args.beta, 0.0
        super().__init__(model=model, reward_funcs=reward, args=args, train_dataset=data, **kwargs)  # type: ignore[call-arg]
        args.beta = self.beta = beta
        reward.end_ids = self.eos_token_ids
        if "ref" in getattr(model, "peft_config", {}):  # a copy of the fresh adapter, which does nothing
            model.delete_adapter("ref")
        if reference is not None:
            from trl.trainer.utils import add_fused_lm_head

            add_fused_lm_head(reference, temperature=args.temperature)
            self.ref_model = self.accelerator.prepare_model(reference, evaluation_mode=True)
        self.remove_callback(PrinterCallback)  # type: ignore[attr-defined]

    def _send_telemetry(self) -> None:
        """TRL would tell its makers what is trained."""

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """A checkpoint is no model to be published."""

    # The order of prompts

    def _get_train_sampler(self, dataset: Any = None) -> GroupSampler:
        args = self.args
        self._order = GroupSampler(
            len(self.train_dataset if dataset is None else dataset),  # type: ignore[attr-defined]
            args.generation_batch_size // args.num_generations,
            args.num_generations,
            args.num_iterations * args.steps_per_generation,
            args.seed if args.data_seed is None else args.data_seed,
        )
        return self._order

    def _run_epoch(self, *args: Any, epoch: int, **kwargs: Any) -> None:
        if self._order is not None:
            self._order.set_epoch(epoch)
        super()._run_epoch(*args, epoch=epoch, **kwargs)  # type: ignore[misc]

    # Answers

    def _generate_single_turn(self, *args: Any, **kwargs: Any) -> Any:
        """Draws from the policy as it is: what TRL leaves open (min_p, suppress_tokens...), the model's own
        generation_config would fill in, and the loss would not know."""
        policy = _causal(self.model)
        own, policy.generation_config = policy.generation_config, GenerationConfig()
        try:
            return super()._generate_single_turn(*args, **kwargs)  # type: ignore[misc]
        finally:
            policy.generation_config = own

    def _get_per_token_logps_and_entropies(self, model: Any, *args: Any, **kwargs: Any) -> Any:
        """With positions: TRL pads prompts on the left and passes none, so a model would count the padding, too."""

        def placed(**inputs: Any) -> Any:
            positions = (inputs["attention_mask"].cumsum(dim=1) - 1).clamp(min=0)
            return model(**inputs, position_ids=positions)

        scored = placed if self._takes_positions else model
        return super()._get_per_token_logps_and_entropies(scored, *args, **kwargs)  # type: ignore[misc]

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        """Where RLOO measures its KL."""
        before = len(self._metrics["train"].get("kl", ()))
        drawn = super()._generate_and_score_completions(inputs)  # type: ignore[misc]
        self._measure_answers(before, drawn["completion_mask"])
        return drawn

    def _compute_loss(self, model: Any, inputs: Any) -> Any:
        """Where GRPO measures its KL."""
        before = len(self._metrics["train"].get("kl", ()))
        loss = super()._compute_loss(model, inputs)  # type: ignore[misc]
        self._measure_answers(before, inputs["completion_mask"])
        return loss

    def _measure_answers(self, before: int, mask: Tensor) -> None:
        """Adds what the report compares stages by: the KL of a whole answer, which is TRL's `kl` times the length.

        TRL's is nats per token of `mask` (N, T): RLOO's is k1, of all answers drawn; GRPO's is k3, of a forward pass.
        Where no token counts (mask_truncated_completions), TRL says 0, and here nothing is said. `before`: how many
        values there were before the one that may be new.
        """
        kl = self._metrics["train"].get("kl", ())
        if len(kl) == before:
            return
        counted = torch.stack([mask.sum(), mask.any(dim=1).sum()])
        tokens, answers = self.accelerator.reduce(counted, reduction="sum").tolist()
        if answers:
            self._metrics["train"]["objective/kl"].append(kl[-1] * tokens / answers)

    # Steps

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """Raises AlignmentError for a loss that is not finite, and for a reference that is not the starting policy."""
        loss: Tensor = super().training_step(*args, **kwargs)  # type: ignore[misc]
        step = self.state.global_step + 1
        if not loss.isfinite():
            raise AlignmentError(f"step {step}: the loss is not finite; lower the learning rate")
        # The Trainer would forget, in a resumed run, the losses between the last log and the checkpoint.
        over_processes = self.accelerator.gather(loss).mean().item()
        self._metrics["train"]["loss"].append(over_processes * self.current_gradient_accumulation_steps)
        if step == 1 and self.beta and not self._start_checked:
            self._start_checked = True
            low = self.args.bf16 or self.args.fp16
            (kl, *_) = self._metrics["train"]["kl"]
            if not abs(kl) <= (START_TOLERANCE_LOW_PRECISION if low else START_TOLERANCE):
                raise AlignmentError(
                    f"the policy differs from its reference before the first step: {kl:.3g} nats per token; the "
                    "reference is not the model that training starts from"
                )
        return loss

    # Checkpoints

    def train(self, resume_from_checkpoint: str | None = None, **kwargs: Any) -> Any:
        """Trains from the start, or on from a checkpoint (see `last_complete_checkpoint`)."""
        if resume_from_checkpoint is not None:
            checkpoint = Path(resume_from_checkpoint)
            if was_over(checkpoint):  # killed after its last step: the Trainer would take one more
                self.state = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))
                self._load_from_checkpoint(str(checkpoint))  # type: ignore[attr-defined]
                return TrainOutput(self.state.global_step, 0.0, {})
            self._load_answers(checkpoint)
        return super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)  # type: ignore[misc]

    def _save_more(self, checkpoint: Path) -> None:
        """Answers that are not yet used up (`num_iterations`), and what was measured since the last log."""
        kept: Sequence[Mapping[str, Tensor]] = self._buffered_inputs or ()
        tensors = {f"{i}.{name}": value.clone() for i, part in enumerate(kept) for name, value in part.items()}
        answers, state = _files(checkpoint, self.accelerator.process_index)
        save_file(tensors, answers)
        state.write_text(json.dumps({"step": self._step, "metrics": self._metrics["train"]}), encoding="utf-8")

    def _load_answers(self, checkpoint: Path) -> None:
        answers, state = _files(checkpoint, self.accelerator.process_index)
        tensors = load_file(answers, device=str(self.accelerator.device))
        parts: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            number, _, name = key.partition(".")
            parts.setdefault(int(number), {})[name] = value
        self._buffered_inputs = [parts[number] for number in sorted(parts)] or None
        kept = json.loads(state.read_text(encoding="utf-8"))
        self._step: int = kept["step"]
        self._metrics["train"].update(kept["metrics"])


def _causal(model: Any) -> Any:
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _files(checkpoint: Path, process: int) -> tuple[Path, Path]:
    return checkpoint / f"answers-{process}.safetensors", checkpoint / f"answers-{process}.json"
