"""One transformers Trainer for every objective: exact metrics, exact accumulation, exact resume.

- The gradient of a step does not depend on how its rows are split into micro-batches, forward passes or processes.
- A logged metric is the exact ratio over all records since the last log, in training and in evaluation. Of a
  `batchwise` objective the loss is that of the batches it was measured in.
- A killed run resumes from its last whole checkpoint and ends with the same weights and logs as one that was not.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import SequentialSampler
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainerState, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import TrainOutput

from alignment.errors import AlignmentError
from alignment.generation.head import evaluating
from alignment.training.checkpoints import WholeCheckpoints
from alignment.training.collate import Batch
from alignment.training.finite import check_gradient, check_loss
from alignment.training.metrics import Meter, measured_names
from alignment.training.objectives.objective import Measured, Objective
from alignment.training.optimizers import WarmsUp
from alignment.training.prefix_sharing import shares_prefixes, unique_tokens
from alignment.training.sampling import EpochSampler, Rows, check_shares, row_length
from alignment.training.splitting import bound_trunk, check_context, check_records, padded_tokens, split_batch
from alignment.training.stopping import KeepsBest, was_over
from reward.context import context_length

PENDING_METRICS = "pending_metrics.json"  # in a checkpoint: what was measured since the last log

# Mean nats per token by which the starting policy may differ from its reference: rounding, nothing else.
START_TOLERANCE = 1e-4
START_TOLERANCE_LOW_PRECISION = 0.05


class ObjectiveTrainer(KeepsBest, WholeCheckpoints, WarmsUp, Trainer):  # type: ignore[misc]
    """Trains a model on an objective."""

    loss_is_scaled_for_ga = True  # compute_loss divides by the whole step's weight; the Trainer must not divide again

    def __init__(
        self,
        objective: Objective,
        model: Any,
        args: TrainingArguments,
        train_rows: Sequence[Mapping[str, Any]],
        eval_rows: Sequence[Mapping[str, Any]] | None = None,
        callbacks: Sequence[TrainerCallback] = (),
        tokenizer: Any = None,
        max_tokens_per_forward: int | None = None,
    ) -> None:
        """Prepares training.

        Args:
            objective: the loss, and how rows become batches.
            model: a transformers model or a PeftModel.
            args: see `training_arguments`.
            train_rows: mappings with the objective's columns.
            eval_rows: the same, for evaluation during training.
            callbacks: for example `ProgressLog`.
            tokenizer: saved beside every checkpoint's weights when given.
            max_tokens_per_forward: a batch of more tokens (unique ones, where prefixes are shared) runs in several
                forward and backward passes of whole records; the step's gradient and metrics stay the same. Of an
                objective whose records are coupled, the trunk is bounded instead (see `share_prefixes`).

        Raises:
            AlignmentError: several GPUs visible to one process.
            RecipeError: for coupled records gradient accumulation, other processes, or a bound without shared prefixes.
            DataError: a record that does not fit into the model's context, or into one forward pass.
            ValueError: a row without one of the objective's columns.
        """
        rows = [*train_rows, *(eval_rows or ())]
        for row in rows:
            missing = [column for column in objective.columns if column not in row]
            if missing:
                raise ValueError(f"row {row.get('id')} has no {', '.join(missing)}")
        check_context(rows, context_length(model))
        if args.n_gpu > 1:
            raise AlignmentError(
                f"{args.n_gpu} GPUs are visible to one process; show it one with CUDA_VISIBLE_DEVICES=0 (a script of "
                "your own may start one process per GPU with torchrun; a recipe runs in one)"
            )
        self._count = unique_tokens if shares_prefixes(model) else padded_tokens
        self._bound = max_tokens_per_forward  # of what is split by records
        if objective.coupled:
            processes = 1 if objective.gathers else args.world_size
            bound_trunk(model, args.gradient_accumulation_steps, processes, max_tokens_per_forward)
            self._bound = None
        elif max_tokens_per_forward is not None:
            check_records(rows, objective.collate, max_tokens_per_forward, self._count)
        self.objective = objective
        self._train_meter = Meter()
        self._eval_meter = Meter()
        self._start_checked = False
        self._order: EpochSampler | None = None
        super().__init__(
            model=model,
            args=args,
            data_collator=objective.collate,
            train_dataset=Rows(train_rows),
            eval_dataset=Rows(eval_rows) if eval_rows is not None else None,
            processing_class=tokenizer,
            callbacks=list(callbacks),
        )
        self.remove_callback(PrinterCallback)

    def train(self, resume_from_checkpoint: str | None = None, **kwargs: Any) -> Any:
        """Trains from the start, or on from a checkpoint (see `last_complete_checkpoint`).

        Raises AlignmentError for rows that several processes cannot share evenly, a loss or gradient that is not
        finite, and a start from something it must not start from; RecipeError as `check_warmup`.
        """
        check_shares(len(self.train_dataset), self.args)
        self._train_meter.clear()
        if self.args.load_best_model_at_end:
            with evaluating(self.model):
                one = self._prepare_inputs(self.objective.collate([self.eval_dataset[0]]))
                self._check_metric(measured_names(self._measure(self.model, one).sums))
        if resume_from_checkpoint is not None:
            checkpoint = Path(resume_from_checkpoint)
            if was_over(checkpoint):
                return self._finish(checkpoint)
            if self.is_world_process_zero():
                pending = checkpoint / PENDING_METRICS
                self._train_meter.load(json.loads(pending.read_text(encoding="utf-8")))
        return super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)

    def _finish(self, last: Path) -> TrainOutput:
        """What is left to do when a run was killed after its last step: the Trainer itself would take one more."""
        self.state = TrainerState.load_from_json(str(last / TRAINER_STATE_NAME))
        self._load_from_checkpoint(str(self.best_checkpoint() or last))
        return TrainOutput(self.state.global_step, 0.0, {})

    # The order of rows

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        rows = self.train_dataset if train_dataset is None else train_dataset
        how = self.args.train_sampling_strategy
        if how == "sequential":
            return super()._get_train_sampler(train_dataset)
        lengths = [row_length(row) for row in rows] if how == "group_by_length" else None
        per_step = self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        self._order = EpochSampler(len(rows), seed, lengths, per_step)
        return self._order

    def _get_eval_sampler(self, eval_dataset: Any) -> Any:
        return SequentialSampler(eval_dataset)  # grouping is for training

    def _run_epoch(self, *args: Any, epoch: int, **kwargs: Any) -> None:
        if self._order is not None:  # a resumed run of several processes would start with the order of epoch 0
            self._order.set_epoch(epoch)
        super()._run_epoch(*args, epoch=epoch, **kwargs)

    # The loss of a step

    def training_step(self, model: nn.Module, inputs: Batch, num_items_in_batch: Tensor | None = None) -> Tensor:
        """Forward and backward of a micro-batch, in as many passes as its tokens need: Σ of `compute_loss`, detached.

        Processes exchange gradients once, in the last pass.
        """
        parts = self._parts(inputs)
        if self.state.global_step == 0 and not self._start_checked:
            for part in parts:
                self._check_start(self._prepare_inputs(part))
            self._start_checked = True
        total = torch.zeros((), device=self.args.device)
        for number, part in enumerate(parts, 1):
            with nullcontext() if number == len(parts) else self.accelerator.no_sync(model):
                total += super().training_step(model, part, num_items_in_batch)
        return total

    def _get_num_items_in_batch(self, batch_samples: list[Batch], device: torch.device) -> Tensor:
        """The weight of all micro-batches of a step, over all processes."""
        total = torch.stack([self.objective.weight(batch) for batch in batch_samples]).sum().to(device)
        return self.accelerator.reduce(total, "sum")  # type: ignore[no-any-return]

    def _parts(self, inputs: Batch) -> list[Batch]:
        return split_batch(inputs, self._bound, self._count)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Batch,
        return_outputs: bool = False,
        num_items_in_batch: Tensor | None = None,
    ) -> Any:
        """The micro-batch's share of the step's loss: Σ_micro weight · loss / Σ_step weight.

        Times the number of processes, because gradients are averaged over them. Raises AlignmentError for a loss that
        is not finite.
        """
        measured = self._measure(model, inputs)
        check_loss(measured.sums, inputs["ids"], self.state.global_step + 1)
        self._train_meter.add(measured.sums, measured.counts)
        assert num_items_in_batch is not None
        share = self.objective.weight(inputs) / num_items_in_batch * self.accelerator.num_processes
        loss = measured.loss * share
        return (loss, {}) if return_outputs else loss

    def _measure(self, model: nn.Module, inputs: Batch) -> Measured:
        bare = self.accelerator.unwrap_model(model)
        # the Trainer puts autocast around the model's own forward only, and objectives call the trunk
        with self.accelerator.autocast():
            if bare is model:
                return self.objective.loss(model, inputs)
            return _through(model, bare, lambda: self.objective.loss(bare, inputs))

    def _check_start(self, inputs: Batch) -> None:
        low = self.args.bf16 or self.args.fp16 or next(self.model.parameters()).dtype != torch.float32
        with self.accelerator.autocast():
            tolerance = START_TOLERANCE_LOW_PRECISION if low else START_TOLERANCE
            self.objective.check_start(self.accelerator.unwrap_model(self.model), inputs, tolerance)

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        """The gradient's norm, asked for before every step of the optimizer. AlignmentError when it is not finite."""
        norm = super()._get_grad_norm(model, grad_norm)
        if not self.args.fp16:  # whose scaler skips such a step
            check_gradient(norm, self.state.global_step + 1)
        return norm

    # Metrics

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Puts the exact ratios since the last log into a training log."""
        if "loss" in logs:
            meter = self._over_processes()
            logs = {**logs, **meter.ratios()}
            self._train_meter.clear()
        super().log(logs, start_time)

    def _over_processes(self) -> Meter:
        meter = Meter()
        state = self._train_meter.state()
        pairs = torch.tensor(list(state.values()), dtype=torch.float64)
        if self.accelerator.num_processes > 1:
            pairs = self.accelerator.reduce(pairs.to(self.args.device), "sum").cpu()
        meter.load({name: (total, count) for name, (total, count) in zip(state, pairs.tolist(), strict=True)})
        return meter

    def evaluation_loop(self, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any) -> Any:
        """Adds the exact ratios over all evaluation records."""
        self._eval_meter.clear()
        output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        output.metrics.update({f"{metric_key_prefix}_{k}": v for k, v in self._eval_meter.ratios().items()})
        return output

    def prediction_step(
        self, model: nn.Module, inputs: Batch, prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> tuple[None, None, None]:
        """Measures one evaluation batch; rows repeated to fill the last round of processes are left out."""
        with torch.no_grad():
            parts = [self._measure(model, part) for part in self._parts(self._prepare_inputs(inputs))]
        sums, counts = (
            {name: torch.cat([getattr(part, kind)[name] for part in parts]) for name in parts[0].sums}
            for kind in ("sums", "counts")
        )
        self._eval_meter.add(*self.accelerator.gather_for_metrics((sums, counts)))
        return None, None, None

    # Checkpoints

    def _save_more(self, checkpoint: Path) -> None:
        pending = self._over_processes().state()
        if self.args.should_save:
            (checkpoint / PENDING_METRICS).write_text(json.dumps(pending), encoding="utf-8")


def _through(wrapper: nn.Module, bare: nn.Module, method: Callable[[], Measured]) -> Measured:
    """Runs `method` inside `wrapper.forward`, so that DDP and FSDP see the forward pass they synchronise."""
    original = bare.forward

    def redirected() -> Measured:
        bare.forward = original
        return method()

    bare.forward = redirected
    try:
        return wrapper()  # type: ignore[no-any-return]
    finally:
        bare.forward = original
