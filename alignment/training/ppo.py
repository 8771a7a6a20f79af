"""Proximal policy optimisation (Schulman et al. 2017, arXiv:1707.06347) of a language model on whole answers.

A step: sample answers to the next prompts, score them, compare with the reference, estimate advantages, update. A step
depends on the weights and on (seed, step) alone, so a run resumes exactly from any checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments, get_scheduler
from transformers.trainer_callback import CallbackHandler, DefaultFlowCallback

from alignment.errors import AlignmentError
from alignment.training import ppo_checkpoints
from alignment.training.actor_critic import ActorCritic
from alignment.training.arguments import autocast
from alignment.training.experience import Experience, experience
from alignment.training.kl_control import AdaptiveKL, FixedKL
from alignment.training.optimizers import check_warmup
from alignment.training.ppo_batch import Prompt, Sampled, Sampling, Score, objective_metrics, sample_rows
from alignment.training.ppo_options import PPOOptions
from alignment.training.ppo_update import STARTS_OVER, Update
from alignment.training.rollouts import Rollout, rollouts
from alignment.training.samples import SampleLog
from alignment.training.score_scaling import ScoreScaling
from alignment.training.vllm_rollouts import Passes, VLLMRollouts

# First words of random keys. Without them keys of different lengths meet: numpy takes words that are missing for 0.
ORDER, DRAWS, MINI_BATCHES = 1, 2, 3

# What to do about numbers that nothing can be learned from.
REFERENCE_FIX = "the model the stage starts from is broken, or overflows in this precision; try trainer.bf16: false"
VALUES_FIX = f"the value function has diverged; lower the learning rate ({STARTS_OVER})"
PENALTIES_FIX = f"the policy is too far from the reference for ppo.kl_estimator; take k1 ({STARTS_OVER})"
SCORES_FIX = "put the scorer on a smaller scale, or set ppo.clip_scores"


class PPOTrainer:
    """Trains an `ActorCritic`."""

    def __init__(
        self,
        actor: ActorCritic,
        tokenizer: Any,
        prompts: Sequence[Prompt],
        score: Score,
        args: TrainingArguments,
        options: PPOOptions,
        sampling: Sampling,
        kl_coef: float,
        *,
        watch: Score | None = None,
        samples: SampleLog | None = None,
        server: VLLMRollouts | None = None,
        callbacks: Sequence[TrainerCallback] = (),
    ) -> None:
        """Prepares training.

        Args:
            actor: policy, values and reference.
            tokenizer: the policy's.
            prompts: what to answer; every epoch takes each once, in an order drawn from the seed.
            score: what is maximised. It raises AlignmentError for scores that cannot be used.
            args: of the optimizer: `per_device_train_batch_size` rows run at a time, `max_steps` or `num_train_epochs`
                say how long, checkpoints go to `output_dir` each `save_steps` steps.
            options, sampling, kl_coef: of the method.
            watch: scored and logged, never learned from.
            samples: takes some answers of some steps.
            server: samples the answers; None decodes them here.
            callbacks: of transformers, for logs.
        """
        self.actor = actor
        self._tokenizer = tokenizer
        self._pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
        self._prompts = prompts
        self._score = score
        self._watch = watch
        self._args = args
        self._options = options
        self._sampling = sampling
        self._samples = samples
        self._server = server
        adaptive = options.adaptive_kl
        self._kl = FixedKL(kl_coef) if adaptive is None else AdaptiveKL(kl_coef, adaptive.target, adaptive.horizon)
        self._scaling = ScoreScaling(options.normalize_scores, options.clip_scores)
        self._folder = Path(args.output_dir)
        self._forward_rows = 2 * args.per_device_train_batch_size  # without a backward pass twice the rows fit
        self._weights = actor.trainable()
        per_step = sampling.batch_size // sampling.samples_per_prompt
        epochs_steps = -(-int(np.ceil(args.num_train_epochs * len(prompts))) // per_step)
        self.total_steps = args.max_steps if args.max_steps > 0 else epochs_steps
        self._per_step = per_step
        self._optimizer, self._schedule = self._optimizer_and_schedule()
        self._update = Update(
            actor,
            self._optimizer,
            options,
            temperature=sampling.temperature,
            pad_id=self._pad_id,
            size=args.per_device_train_batch_size,
            max_grad_norm=args.max_grad_norm,
            autocast=lambda: autocast(args),
            low_precision=args.bf16,
            compared=server is not None,
        )
        self.state = TrainerState(max_steps=self.total_steps, num_train_epochs=args.num_train_epochs)
        self._last: dict[str, float] = {}
        listeners = [DefaultFlowCallback(), *callbacks]
        self._callbacks = CallbackHandler(listeners, actor.model, tokenizer, self._optimizer, self._schedule)

    def train(self) -> dict[str, float]:
        """Trains from where `load` left off, or from the start, to the last step; returns the last step's metrics.

        Raises:
            AlignmentError: a scorer's, or what `PPOOptions.guard` watches; the checkpoint before the step is kept.
        """
        control = TrainerControl()
        metrics = self._last
        if self._samples is not None:
            self._samples.cut_after(self.state.global_step)
        self._callbacks.on_train_begin(self._args, self.state, control)
        while self.state.global_step < self.total_steps:
            step = self.state.global_step + 1
            try:
                metrics = self._step(step)
            except AlignmentError as error:
                raise type(error)(f"step {step}: {error}") from error
            self.state.global_step = step
            self.state.epoch = round(step * self._per_step / len(self._prompts), 4)
            metrics["epoch"] = self.state.epoch
            if step % max(1, int(self._args.logging_steps)) == 0 or step in (1, self.total_steps):
                self._callbacks.on_log(self._args, self.state, control, metrics)
            if step % int(self._args.save_steps) == 0 or step == self.total_steps:
                self._save(metrics)
            self._callbacks.on_step_end(self._args, self.state, control)
        self._callbacks.on_train_end(self._args, self.state, control)
        return metrics

    # One step

    def _step(self, step: int) -> dict[str, float]:
        sampled = self.sample(step)
        exp = self._experience(sampled)
        self._learnable(sampled, exp)
        metrics = objective_metrics(sampled, exp, self._kl.value, raw=self._options.changes_scores)
        self._guard(metrics)
        lr = self._schedule.get_last_lr()[0]
        metrics |= self._update(exp, sampled.groups, (MINI_BATCHES, self._sampling.seed, step))
        if step == 1 and not metrics["policy/updates"]:  # rounding is alike in every step
            raise AlignmentError(
                f"ppo.early_stop_kl {self._options.early_stop_kl:g} is less than rounding alone makes of it, "
                f"{metrics['policy/approxkl_avg']:.2g} nats per token before anything was learned; raise it"
            )
        self._schedule.step()
        self._kl.update(metrics["objective/kl"], len(exp.rows))
        if self._samples is not None and self._samples.wants(step, self.total_steps):
            self._samples.write(sample_rows(step, sampled, exp))
        return metrics | {"lr": lr, "episode": float(step * self._sampling.batch_size)}

    def sample(self, step: int) -> Sampled:
        """The answers of a step, scored."""
        sampling = self._sampling
        taken = [self._prompts[i] for i in prompt_order(len(self._prompts), self._per_step, step, sampling.seed)]
        found, agreement = self._answers(taken, step)
        n = sampling.samples_per_prompt
        prompts = [prompt for prompt in taken for _ in range(n)]
        answers = [answer for group in found for answer in group]
        wanted = [p.id for p in prompts], [p.messages for p in prompts], [answer.text for answer in answers]
        scored = self._score(*wanted)
        watched = None if self._watch is None else self._watch(*wanted)
        groups = [list(range(first, first + n)) for first in range(0, len(prompts), n)]
        return Sampled(prompts, groups, answers, scored, watched, agreement)

    def _answers(self, taken: Sequence[Prompt], step: int) -> tuple[list[list[Rollout]], dict[str, float]]:
        sampling = self._sampling
        how: dict[str, Any] = {
            "max_new_tokens": sampling.max_new_tokens,
            "temperature": sampling.temperature,
            "samples": sampling.samples_per_prompt,
            "seeds": [(DRAWS, sampling.seed, step, place) for place in range(len(taken))],
        }
        prompts = [prompt.ids for prompt in taken]
        if self._server is not None:
            passes = Passes(self._forward_rows, self._pad_id, lambda: autocast(self._args))
            return self._server(self.actor, self._tokenizer, prompts, passes=passes, **how)
        how |= {"ids": [prompt.id for prompt in taken], "bf16": self._args.bf16}
        value = None if self.actor.value_adapter else self.actor.head
        return rollouts(self.actor.model, self._tokenizer, prompts, value=value, **how), {}

    def _experience(self, sampled: Sampled) -> Experience:
        return experience(
            self.actor,
            [prompt.ids for prompt in sampled.prompts],
            sampled.answers,
            torch.as_tensor(np.asarray(sampled.scored.scores), dtype=torch.float32),
            self._kl.value,
            self._options,
            self._scaling,
            self._sampling.temperature,
            pad_id=self._pad_id,
            size=self._forward_rows,
            autocast=lambda: autocast(self._args),
        )

    def _learnable(self, sampled: Sampled, exp: Experience) -> None:
        """Raises AlignmentError for advantages or returns that are not finite, naming a prompt and what is to blame."""
        if bool(exp.advantages.isfinite().all() and exp.returns.isfinite().all()):
            return
        blamed = {
            "the reference's log-probabilities of its answer": (exp.ref_logps, REFERENCE_FIX),
            "the values of its answer": (exp.values, VALUES_FIX),
            "the KL penalties of its answer": (exp.penalties, PENALTIES_FIX),
        }
        for what, (found, fix) in blamed.items():
            wrong = ~found.isfinite().all(dim=1)
            if bool(wrong.any()):
                raise AlignmentError(
                    f"prompt {sampled.prompts[int(wrong.int().argmax())].id}: {what} are not finite: {fix}"
                )
        scores, values = exp.scores.abs(), exp.values.abs().amax(dim=1)
        if bool(values.max() > scores.max()):
            worst = int(values.argmax())
            what, fix = f"a value of its answer, {float(values[worst]):g} in size,", VALUES_FIX
        else:
            worst = int(scores.argmax())
            what, fix = f"its score {float(sampled.scored.scores[worst]):g}", SCORES_FIX
        raise AlignmentError(
            f"prompt {sampled.prompts[worst].id}: {what} is too large to compute advantages with; {fix}"
        )

    def _guard(self, metrics: Mapping[str, float]) -> None:
        limit, kl = self._options.guard.max_kl, metrics["objective/kl"]
        if limit is not None and not kl <= limit:
            raise AlignmentError(
                f"the policy is {kl:.3g} nats per answer away from where it started, beyond ppo.guard.max_kl "
                f"{limit:g}; raise kl_coef, or lower the learning rate ({STARTS_OVER})"
            )

    # Optimizer and checkpoints

    def _optimizer_and_schedule(self) -> tuple[torch.optim.Optimizer, Any]:
        """Raises RecipeError as `check_warmup`."""
        args = self._args
        check_warmup("trainer", args.lr_scheduler_type, args.warmup_steps, self.total_steps)
        kind, settings = Trainer.get_optimizer_cls_and_kwargs(args, self.actor.model)
        decayed = [weight for weight in self._weights.values() if weight.ndim > 1]
        rest = [weight for weight in self._weights.values() if weight.ndim <= 1]
        groups = [{"params": decayed, "weight_decay": args.weight_decay}, {"params": rest, "weight_decay": 0.0}]
        optimizer = kind([group for group in groups if group["params"]], **settings)
        schedule = get_scheduler(
            args.lr_scheduler_type,
            optimizer=optimizer,
            num_warmup_steps=args.get_warmup_steps(self.total_steps),
            num_training_steps=self.total_steps,
            scheduler_specific_kwargs=args.lr_scheduler_kwargs,
        )
        return optimizer, schedule

    def _save(self, metrics: Mapping[str, float]) -> None:
        state = {
            "metrics": dict(metrics),
            "kl": self._kl.state(),
            "scaling": self._scaling.state(),
            "schedule": self._schedule.state_dict(),
        }
        ppo_checkpoints.save(self._folder, self.state.global_step, self._weights, self._optimizer, state)

    def load(self) -> int:
        """Takes up the newest whole checkpoint; returns its step, 0 when there is none."""
        state = ppo_checkpoints.load(self._folder, self._weights, self._optimizer)
        if state is not None:
            self.state.global_step = state["step"]
            self._kl.load(state["kl"])
            self._scaling.load(state["scaling"])
            self._schedule.load_state_dict(state["schedule"])
            self._last = dict(state["metrics"])
        return int(self.state.global_step)


def prompt_order(n: int, per_step: int, step: int, seed: int) -> list[int]:
    """Which of `n` prompts step `step` (from 1) takes: the next ones of an endless row of shuffled epochs."""
    places = range((step - 1) * per_step, step * per_step)
    orders = {epoch: np.random.default_rng([ORDER, seed, epoch]).permutation(n) for epoch in {p // n for p in places}}
    return [int(orders[place // n][place % n]) for place in places]
