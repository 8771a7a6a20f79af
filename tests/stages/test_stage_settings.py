"""Stage settings agree with the tables they name, and records are accounted for on their way to rows."""

from __future__ import annotations

import pytest

from alignment.errors import RecipeError
from alignment.preferences.record import Generator, Message, PreferenceRecord, Prompt, Response
from alignment.preferences.simulate import SimulatedAnnotator, judge
from alignment.stages import STAGES, dpo, ranking_loss, train
from alignment.stages.on_policy import OnPolicySettings
from alignment.stages.reference_answers import references
from alignment.stages.sampling import SamplingSettings
from alignment.stages.settings import Made, StageSettings, TrainingSettings, hand_off
from alignment.training.losses.pairs import DPO_LOSSES
from reward.losses import RANKING_LOSSES


def test_losses_known_without_torch_are_the_rows_of_the_tables() -> None:
    assert set(ranking_loss.LOSSES) == set(RANKING_LOSSES)
    assert set(dpo.LOSSES) == set(DPO_LOSSES)


def test_settings_stay_few() -> None:
    bases = (TrainingSettings, OnPolicySettings, SamplingSettings, StageSettings)
    for name, stage in STAGES.items():
        shared = next(base for base in bases if issubclass(stage.settings, base))
        assert len(stage.settings.model_fields.keys() - shared.model_fields.keys()) <= 15, name
    assert max(len(base.model_fields) for base in bases) <= 15


EARLIER = [Made("sft", "policy"), Made("reward", "reward"), Made("dpo", "policy")]


def test_auto_is_the_last_model_of_the_kind() -> None:
    assert hand_off("auto", "x", EARLIER, "policy") == "dpo"
    assert hand_off("auto", "x", EARLIER, "reward") == "reward"
    assert hand_off("auto", "x", [], "policy") == "base"
    assert hand_off("mine@3", "x", [], "policy") == "mine@3"
    with pytest.raises(RecipeError, match="x: needs a reward model, but no earlier stage makes one"):
        hand_off("auto", "x", EARLIER[:1], "reward")


def test_a_tracker_that_is_not_there_is_an_error() -> None:
    with pytest.raises(RecipeError, match=r"sft.trainer.report_to: 'wandbb' is not one of none, tensorboard"):
        train.check("sft", {"report_to": "wandbb"})
    train.check("sft", {"report_to": "tensorboard"})


def response(text: str, name: str | None = None) -> Response:
    generator = Generator(kind="model", name=name) if name else None
    return Response(messages=(Message(role="assistant", content=text),), generator=generator)


def test_a_reference_is_the_marked_answer_or_the_best_ranked_one() -> None:
    prompt = Prompt(messages=(Message(role="user", content="Who?"),))
    short = SimulatedAnnotator("short", {"brevity": 1.0})
    other_rater = SimulatedAnnotator("long", {"brevity": -1.0})
    plain = PreferenceRecord(prompt=prompt, responses=(response("A long winded answer."), response("Me.")))
    ranked = plain.model_copy(update={"judgements": (judge(plain, short),)})
    marked = PreferenceRecord(
        prompt=prompt,
        responses=(*plain.responses, response("The written one.", "reference")),
        judgements=ranked.judgements,
    )
    assert references([ranked]) == {ranked.id: "Me."}
    assert references([marked]) == {marked.id: "The written one."}
    other = ranked.model_copy(update={"judgements": (*ranked.judgements, judge(plain, other_rater, "detail"))})
    assert references([other], "overall") == {other.id: "Me."}
    assert references([other], "detail") == {other.id: "A long winded answer."}
