"""What RLOO and GRPO share: TRL's trainers on our prompts, scorers, reference, logs and checkpoints."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback, TrainerState

from alignment.errors import AlignmentError
from alignment.runs import RunContext, StageResult
from alignment.runtime import quiet
from alignment.stages import policy, train
from alignment.stages.empty_answers import is_empty, refuse_silence
from alignment.stages.groups import GroupSettings, check_enough
from alignment.stages.prompts import Prompts, prompt_rows
from alignment.stages.sampling import stage_seed
from alignment.stages.scoring import check_prompts, load_scorer, load_watch
from alignment.training.arguments import training_arguments
from alignment.training.checkpoints import last_complete_checkpoint
from alignment.training.progress import TIMINGS, ProgressLog
from alignment.training.samples import SampleLog
from reward.context import context_length

if TYPE_CHECKING:
    from alignment.scorers import CheckedScorer

DEFAULTS: dict[str, Any] = {"learning_rate": 1e-6}  # TRL's


class Reward:
    """A scorer as TRL calls it; what it says of every answer is logged, and some answers are kept to be read."""

    __name__ = "reward"  # in TRL's metrics

    def __init__(
        self, scorer: CheckedScorer, watch: CheckedScorer | None, samples: SampleLog | None, end_ids: Sequence[int] = ()
    ) -> None:
        """`watch` is logged, never learned from; an answer whose last token is in `end_ids` is finished."""
        self._scorer = scorer
        self._watch = watch
        self._samples = samples
        self.end_ids = end_ids

    def __call__(
        self,
        prompts: list[Any],
        completions: list[Any],
        completion_ids: list[list[int]],
        id: list[str],
        trainer_state: TrainerState,
        log_metric: Any,
        **_: Any,
    ) -> list[float]:
        """The score of every answer. Raises AlignmentError as the scorer does, and for a step of empty answers."""
        step = trainer_state.global_step + 1
        texts = [completion[0]["content"] for completion in completions]
        empty = [is_empty(text) for text in texts]
        try:
            refuse_silence(id, empty)
            scored = self._scorer.score(id, prompts, texts)
            watched = None if self._watch is None else self._watch.score(id, prompts, texts)
        except AlignmentError as error:
            raise type(error)(f"step {step}: {error}") from error
        terms = dict(scored.terms) if watched is None else {**scored.terms, **watched.terms}
        logged = {"": scored.scores} | {f"/{name}": values for name, values in terms.items()}
        for name, values in logged.items():
            log_metric(f"objective/scores{name}", float(values.mean()))
        if scored.spread is not None:
            log_metric("objective/score_spread", float(scored.spread.mean()))
        lengths, finished = [len(ids) for ids in completion_ids], [ids[-1] in self.end_ids for ids in completion_ids]
        log_metric("objective/response_length", sum(lengths) / len(lengths))
        log_metric("objective/eos_rate", sum(finished) / len(finished))
        log_metric("objective/empty_rate", sum(empty) / len(empty))
        if self._samples is not None and self._samples.wants(step, trainer_state.max_steps):
            self._samples.write(
                [
                    {
                        "step": step,
                        "id": id[i],
                        "prompt": prompts[i],
                        "response": texts[i],
                        "score": float(scored.scores[i]),
                        "terms": {name: float(values[i]) for name, values in terms.items()},
                        "kl": None,  # TRL has it per step only
                        "length": lengths[i],
                        "finished": finished[i],
                    }
                    for i in range(len(texts))
                ]
            )
        return [float(score) for score in scored.scores]


def run(context: RunContext, settings: GroupSettings, config: type[Any], trainer: type[Any]) -> StageResult:
    """A whole stage, with TRL's `config` and a `trainer` that has `OnPolicyTrainer` before TRL's own.

    Raises:
        DataError: no prompt can be used, or fewer than a step takes, or a rule lacks the reference answer to one.
        AlignmentError: of a scorer, with the step and the prompt's id; and as the trainer does. Nothing is registered.
    """
    args = _arguments(context, settings, config)
    model, tokenizer = policy.load(context, settings.peft, settings.share_prefixes, dropout=False)
    reference = None
    if settings.kl_coef and settings.peft is None:
        reference = copy.deepcopy(model)
    found = prompt_rows(
        context,
        "train",
        tokenizer,
        settings.max_prompt_length,
        settings.max_new_tokens,
        context_length(model),
        settings.long_prompts,
    )
    notes = _left_out(context, found, args)
    share = settings.share_prefixes
    scorer = load_scorer(context, settings.reward, found.references, share)
    watch = load_watch(context, settings.watch, found.references, share)
    check_prompts(found.rows, scorer, watch, answer_tokens=settings.max_new_tokens)
    samples = SampleLog(
        context.folder / "samples.jsonl", settings.sample_every, settings.num_generations, settings.num_iterations
    )
    made = Reward(scorer, watch, samples if args.should_save else None)
    progress = ProgressLog(context.stage, context.folder / "train_log.jsonl", context.say)
    with quiet():
        fitted = trainer(
            model, reference, args, made, found.rows, processing_class=tokenizer, callbacks=[progress, _Cut(samples)]
        )
        folder = train.checkpoints(context)
        resume = last_complete_checkpoint(folder) if folder.is_dir() else None
        if resume is not None:
            context.say(f"{context.stage}: resuming from {resume.name}")
        fitted.train(resume_from_checkpoint=str(resume) if resume else None)
    metrics = _metrics(fitted.state.log_history) | {"steps": float(fitted.state.global_step)}
    entry = policy.register(context, model, tokenizer, settings.peft, metrics)
    train.clean_up(context)
    return StageResult({context.stage: entry.ref}, metrics, notes, (found.use,))


class _Cut(TrainerCallback):  # type: ignore[misc]
    """Cuts the samples behind the step that training starts from."""

    def __init__(self, samples: SampleLog) -> None:
        self._samples = samples

    def on_train_begin(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            self._samples.cut_after(state.global_step)


def _arguments(context: RunContext, settings: GroupSettings, config: type[Any]) -> Any:
    """Seeds everything and gives TRL's arguments; checkpoints go to the stage's own folder."""
    train.begin(context)
    defaults = {**train.DEFAULTS, **DEFAULTS, **settings.trl_arguments()}
    folder = str(train.checkpoints(context))
    with quiet():
        return training_arguments(folder, stage_seed(context), settings.trainer, defaults, config, context.stage)


def _left_out(context: RunContext, found: Prompts, args: Any) -> tuple[str, ...]:
    """How many prompts an epoch leaves out, for the result. Raises DataError when there are too few for a step."""
    check_enough(found.use.source, len(found.rows), args.generation_batch_size, args.num_generations)
    per_step = args.generation_batch_size // args.num_generations
    rest = len(found.rows) % per_step
    if not rest:
        return ()
    note = f"each epoch leaves out {rest} of {len(found.rows)} prompts, others each time: a step takes {per_step}"
    context.say(f"{context.stage}: {note}")
    return (note,)


def _metrics(logs: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The last value of everything that was logged; how long it took is no result."""
    last = {name: value for row in logs if "loss" in row for name, value in row.items()}
    timings = {"step", "step_time", *TIMINGS}
    return {name: float(v) for name, v in last.items() if isinstance(v, (int, float)) and name not in timings}
