"""One file per stage: its settings and `run(context, settings) -> StageResult`; one row here.

Heavy imports stay inside `run` and `check`, so a recipe is read and planned without torch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from alignment.runs import RunContext, StageResult
from alignment.stages import (
    best_of_n,
    dpo,
    dpo_rankings,
    evaluate,
    grpo,
    kto,
    overoptimisation,
    ppo,
    process_reward,
    rank,
    rejection_sample,
    report,
    reward,
    rloo,
    sample,
    sft,
)
from alignment.stages.settings import StageSettings


@dataclass(frozen=True)
class Stage:
    """A kind of stage. `version` goes into its content key: raise it when a change alters results."""

    settings: type[StageSettings]
    run: Callable[[RunContext, Any], StageResult]
    check: Callable[[str, Any], None]  # (stage name, settings): what only heavy libraries can tell, before any work
    produces: str | None  # "policy", "reward", "records" or nothing that a later stage takes up
    version: int
    reads_run: bool = False  # depends on every earlier stage of the run


STAGES: dict[str, Stage] = {
    "sft": Stage(sft.SFTSettings, sft.run, sft.check, produces="policy", version=1),
    "reward": Stage(reward.RewardSettings, reward.run, reward.check, produces="reward", version=2),
    "process_reward": Stage(
        process_reward.ProcessRewardSettings, process_reward.run, process_reward.check, produces="reward", version=1
    ),
    "dpo": Stage(dpo.DPOSettings, dpo.run, dpo.check, produces="policy", version=1),
    "dpo_rankings": Stage(
        dpo_rankings.DPORankingsSettings, dpo_rankings.run, dpo_rankings.check, produces="policy", version=1
    ),
    "kto": Stage(kto.KTOSettings, kto.run, kto.check, produces="policy", version=1),
    "ppo": Stage(ppo.PPOSettings, ppo.run, ppo.check, produces="policy", version=1),
    "rloo": Stage(rloo.RLOOSettings, rloo.run, rloo.check, produces="policy", version=1),
    "grpo": Stage(grpo.GRPOSettings, grpo.run, grpo.check, produces="policy", version=1),
    "sample": Stage(sample.SampleSettings, sample.run, sample.check, produces="records", version=1),
    "rank": Stage(rank.RankSettings, rank.run, rank.check, produces="records", version=2),
    "best_of_n": Stage(best_of_n.BestOfNSettings, best_of_n.run, best_of_n.check, produces="records", version=2),
    "rejection_sample": Stage(
        rejection_sample.RejectionSampleSettings,
        rejection_sample.run,
        rejection_sample.check,
        produces="records",
        version=2,
    ),
    "evaluate": Stage(evaluate.EvaluateSettings, evaluate.run, evaluate.check, produces=None, version=2),
    # It is no evaluation: its prompts are those that the policies it compares were trained on.
    "overoptimisation": Stage(
        overoptimisation.OverOptimisationSettings,
        overoptimisation.run,
        overoptimisation.check,
        produces="study",
        version=1,
    ),
    "report": Stage(report.ReportSettings, report.run, report.check, produces=None, version=2, reads_run=True),
}
