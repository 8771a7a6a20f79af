"""QA-Feedback (Wu et al. 2023, arXiv 2306.01693): four answers from given passages, all six pairs judged by a person.

    {"question": "...", "passages": [[title, sentence, ...], ...], "gold": "...", "prediction 1": "...", ...,
     "preference": [0, 1, 2, 1, 0, 2], "feedback": {"errors": [...], "corrected-prediction": "..."}}

`preference` compares predictions 1-2, 1-3, 1-4, 2-3, 2-4, 3-4: 1 or 2 is the better one of the two, 0 is a tie. Where
the six form a ranking with ties (a weak order), the judgement is that one order of tiers. Where they do not, because
ties need not be transitive (A ties with B and B with C, yet A beats C), it is six orders of two responses each: what
was said, no more and no less.

The prompt is one user message. Every passage is `Passage N: title`, a line end, and its sentences with spaces between
them; the question follows as `Question: ...`; an empty line stands between the parts. A question without passages is
the question alone, and so are all under the format qa-feedback-question-only. Both formats have the same groups, one
for each question, so they split alike.

`corrected-prediction`, the annotator's edit of prediction 1, becomes an edit where it changes something. The gold
answer was not compared with the others, and neither it nor the error spans have a place in a ranking: `raw` has them.
"""

from collections.abc import Sequence
from itertools import combinations
from typing import Any

from alignment.errors import DataError
from alignment.preferences.importers.conversation import answers_of
from alignment.preferences.record import (
    Annotator,
    Edit,
    Generator,
    Judgement,
    Message,
    Order,
    PreferenceRecord,
    Prompt,
    Response,
    Source,
    group_id,
    judgement_id,
)

PREDICTIONS = ("prediction 1", "prediction 2", "prediction 3", "prediction 4")
PAIRS = tuple(combinations(range(len(PREDICTIONS)), 2))
# The data does not say who judged; one annotator per row is all that is known.
_ANNOTATOR = Annotator(id="unknown", kind="human")


def parse(row: dict[str, Any], line: int) -> PreferenceRecord:
    """A record with four responses, its prompt with the passages, or DataError with the reason of the refusal."""
    return _parse(row, line, with_passages=True)


def parse_question_only(row: dict[str, Any], line: int) -> PreferenceRecord:
    """The same without the passages."""
    return _parse(row, line, with_passages=False)


def _parse(row: dict[str, Any], line: int, with_passages: bool) -> PreferenceRecord:
    question, texts = row.get("question"), answers_of(row, PREDICTIONS)
    if not isinstance(question, str) or not question.strip():
        raise DataError("the question is missing or empty")
    passages = _passages(row.get("passages"))
    responses = tuple(Response(messages=(_assistant(text),), generator=Generator(kind="model")) for text in texts)
    record = PreferenceRecord(
        prompt=_prompt([*passages, f"Question: {question}"] if passages and with_passages else [question]),
        responses=responses,
        group_id=group_id(_prompt([question])),
        source=Source(row=line),
        raw=row,
    )
    judgement = Judgement(
        id=judgement_id(record.id, _ANNOTATOR.id),
        annotator=_ANNOTATOR,
        orders=orders([response.id for response in responses], _votes(row.get("preference"))),
        edits=_edits(responses[0], row.get("feedback")),
    )
    return record.model_copy(update={"judgements": (judgement,)})


def _prompt(parts: Sequence[str]) -> Prompt:
    return Prompt(messages=(Message(role="user", content="\n\n".join(parts)),))


def _assistant(text: str) -> Message:
    return Message(role="assistant", content=text)


def _passages(value: Any) -> list[str]:
    if not isinstance(value, list):
        raise DataError("passages is not a list")
    if not all(isinstance(one, list) and one and all(isinstance(text, str) for text in one) for one in value):
        raise DataError("a passage is not a title with its sentences")
    return [f"Passage {n}: {title}\n{' '.join(sentences)}" for n, (title, *sentences) in enumerate(value, 1)]


def _votes(value: Any) -> list[int]:
    """1 where the first of a pair is better, -1 the second, 0 a tie; in the order of PAIRS."""
    signs = {0: 0, 1: 1, 2: -1}
    if not isinstance(value, list) or len(value) != len(PAIRS):
        raise DataError(f"preference is not a list of {len(PAIRS)} comparisons")
    if not all(type(vote) is int and vote in signs for vote in value):
        raise DataError("preference has a comparison that is not 0, 1 or 2")
    return [signs[vote] for vote in value]


def orders(ids: Sequence[str], votes: Sequence[int]) -> tuple[Order, ...]:
    """The six comparisons as one order of tiers where that says exactly the same, else as six orders."""
    net = [0] * len(ids)
    for (i, j), vote in zip(PAIRS, votes, strict=True):
        net[i] += vote
        net[j] -= vote
    # In a weak order a higher tier has more net wins, and a tier's members have the same: no other order can fit.
    if all((net[i] > net[j]) - (net[i] < net[j]) == vote for (i, j), vote in zip(PAIRS, votes, strict=True)):
        best_first = sorted(set(net), reverse=True)
        return (
            Order(tiers=tuple(tuple(i for i, n in zip(ids, net, strict=True) if n == level) for level in best_first)),
        )
    pairs = [(ids[i], ids[j]) if vote >= 0 else (ids[j], ids[i]) for (i, j), vote in zip(PAIRS, votes, strict=True)]
    return tuple(
        Order(tiers=((better,), (worse,)) if vote else ((better, worse),))
        for (better, worse), vote in zip(pairs, votes, strict=True)
    )


def _edits(first: Response, feedback: Any) -> tuple[Edit, ...]:
    if feedback is None:
        return ()
    text = feedback.get("corrected-prediction") if isinstance(feedback, dict) else None
    if not isinstance(text, str):
        raise DataError("feedback has no corrected-prediction that is a text")
    if not text.strip() or text == first.text():
        return ()
    return (Edit(response_id=first.id, messages=(_assistant(text),)),)
