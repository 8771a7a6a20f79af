"""PPO: the policy learns from the scores of answers it samples itself; the reference is the policy it starts from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field, model_validator

from alignment.errors import RecipeError, nearest
from alignment.runs import RunContext, StageResult
from alignment.stages.on_policy import OnPolicySettings
from alignment.stages.settings import one_end
from alignment.training.ppo_options import PPOOptions
from alignment.training.vllm_options import VLLMOptions
from reward.context import context_length

if TYPE_CHECKING:
    from alignment.scorers import CheckedScorer
    from alignment.stages.prompts import Prompts
    from alignment.training.vllm_rollouts import VLLMRollouts

DEFAULTS: dict[str, Any] = {
    "learning_rate": 1e-5,
    "adam_epsilon": 1e-5,  # Huang et al. 2024: detail of the optimizer
    "lr_scheduler_type": "linear",
    "per_device_train_batch_size": 8,
    "num_train_epochs": 1,
    "logging_steps": 1,
    "save_steps": 1,
}

# Of Hugging Face's training arguments, those that mean something here.
TRAINER_KEYS = (
    *("learning_rate", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon", "max_grad_norm", "optim"),
    *("lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps", "warmup_ratio", "max_steps", "num_train_epochs"),
    *("per_device_train_batch_size", "logging_steps", "save_steps", "bf16", "report_to", "run_name"),
)

# Of its optimizers, those that need nothing of its Trainer.
OPTIMIZERS = ("adamw_torch", "adamw_torch_fused", "adafactor", "sgd", "adagrad", "rmsprop")


class PPOSettings(OnPolicySettings):
    """One step: `batch_size` answers, then `ppo.num_ppo_epochs` over them.

    `trainer.per_device_train_batch_size` is how many rows run at a time; it bounds memory and changes no result.
    """

    batch_size: int = Field(32, ge=2)  # answers of a step
    samples_per_prompt: int = Field(1, ge=1)
    sample_every: int = Field(10, ge=1)  # steps between two samples shown in the report
    ppo: PPOOptions = PPOOptions()
    rollouts: VLLMOptions | None = None  # a vLLM server samples the answers; None: they are decoded here

    @model_validator(mode="after")
    def batches_divide(self) -> PPOSettings:
        if self.batch_size % self.samples_per_prompt:
            raise ValueError(f"batch_size {self.batch_size} is not a multiple of samples_per_prompt")
        if self.batch_size // self.samples_per_prompt < self.ppo.num_mini_batches:
            raise ValueError("ppo.num_mini_batches is more than the prompts of a batch")
        if self.ppo.value_adapter and self.peft is None:
            raise ValueError("ppo.value_adapter needs `peft`")
        if self.rollouts is not None and self.peft is None:
            raise ValueError("rollouts.vllm needs `peft`: a server takes adapters at run time, not whole weights")
        if self.ppo.adaptive_kl is not None and self.kl_coef == 0:
            raise ValueError("ppo.adaptive_kl cannot move a kl_coef of 0; give a start above 0")
        if self.ppo.adaptive_kl is not None and self.ppo.adaptive_kl.horizon <= self.batch_size:
            horizon = self.ppo.adaptive_kl.horizon
            raise ValueError(f"ppo.adaptive_kl.horizon {horizon} is too short for batch_size {self.batch_size}")
        one_end(self.trainer)
        return self


def check(stage: str, settings: PPOSettings) -> None:
    from alignment.stages import train

    train.check(stage, settings.trainer)
    for key in settings.trainer:
        if key not in TRAINER_KEYS:
            raise RecipeError(f"{stage}.trainer.{key}: has no effect on PPO{nearest(key, TRAINER_KEYS)}")
    optim = str(settings.trainer.get("optim", OPTIMIZERS[0]))
    if optim not in OPTIMIZERS:
        known = ", ".join(OPTIMIZERS)
        raise RecipeError(f"{stage}.trainer.optim: {optim} is not one that PPO's own loop was tested with: {known}")
    if float(settings.trainer.get("save_steps", 1)) < 1 or float(settings.trainer.get("logging_steps", 1)) < 1:
        raise RecipeError(f"{stage}.trainer: save_steps and logging_steps count PPO steps, 1 or more")


def run(context: RunContext, settings: PPOSettings) -> StageResult:
    from alignment.runtime import quiet
    from alignment.stages import policy, train
    from alignment.stages.prompts import prompt_rows
    from alignment.stages.scoring import check_prompts, load_scorer, load_watch
    from alignment.training.actor_critic import ActorCritic

    args = _arguments(context, settings)
    model, tokenizer = policy.load(context, settings.peft, settings.share_prefixes)
    limit = context_length(model)
    prompts = prompt_rows(
        context,
        "train",
        tokenizer,
        settings.max_prompt_length,
        settings.max_new_tokens,
        limit,
        settings.long_prompts,
    )
    server = _server(context, settings, max(len(row.ids) for row in prompts.rows))
    scorer = load_scorer(context, settings.reward, prompts.references, settings.share_prefixes)
    watch = load_watch(context, settings.watch, prompts.references, settings.share_prefixes)
    check_prompts(prompts.rows, scorer, watch, answer_tokens=settings.max_new_tokens)
    reference = None if settings.peft is not None else policy.load(context, None, settings.share_prefixes)[0]
    actor = ActorCritic(model, reference, settings.ppo.value_adapter)
    trainer = _trainer(context, settings, args, actor, tokenizer, prompts, scorer, watch, server)
    with quiet():
        metrics = trainer.train()
    metrics = {name: value for name, value in metrics.items() if name != "epoch"}
    metrics["steps"] = float(trainer.total_steps)
    entry = policy.register(context, model, tokenizer, settings.peft, metrics)
    train.clean_up(context)
    return StageResult({context.stage: entry.ref}, metrics, (), (prompts.use,))


def _arguments(context: RunContext, settings: PPOSettings) -> Any:
    from alignment.stages import train
    from alignment.training.arguments import training_arguments

    train.begin(context)
    return training_arguments(
        str(train.checkpoints(context)), context.seed, settings.trainer, DEFAULTS, stage=context.stage
    )


def _server(context: RunContext, settings: PPOSettings, longest: int) -> VLLMRollouts | None:
    """Where answers are sampled, if not here; looked at before anything else is loaded."""
    if settings.rollouts is None or settings.peft is None:
        return None
    from alignment.training.vllm_rollouts import VLLMRollouts

    server = VLLMRollouts(settings.rollouts, context.inputs["model"], settings.peft.r, context.folder)
    server.check(longest + settings.max_new_tokens)
    return server


def _trainer(
    context: RunContext,
    settings: PPOSettings,
    args: Any,
    actor: Any,
    tokenizer: Any,
    prompts: Prompts,
    scorer: CheckedScorer,
    watch: CheckedScorer | None,
    server: VLLMRollouts | None,
) -> Any:
    from transformers.integrations import get_reporting_integration_callbacks

    from alignment.stages.empty_answers import spoken
    from alignment.stages.sampling import stage_seed
    from alignment.training.ppo import PPOTrainer
    from alignment.training.ppo_batch import Sampling
    from alignment.training.progress import ProgressLog
    from alignment.training.samples import SampleLog

    progress = ProgressLog(context.stage, context.folder / "train_log.jsonl", context.say)
    trackers = [callback() for callback in get_reporting_integration_callbacks(args.report_to)]
    trainer = PPOTrainer(
        actor,
        tokenizer,
        prompts.rows,
        spoken(scorer.score),
        args,
        settings.ppo,
        Sampling(
            settings.batch_size,
            settings.samples_per_prompt,
            settings.max_new_tokens,
            settings.temperature,
            stage_seed(context),
        ),
        settings.kl_coef,
        watch=None if watch is None else watch.score,
        samples=SampleLog(context.folder / "samples.jsonl", settings.sample_every, 4),
        server=server,
        callbacks=[progress, *trackers],
    )
    done = trainer.load()
    if done:
        context.say(f"{context.stage}: resuming from step {done}")
    return trainer
