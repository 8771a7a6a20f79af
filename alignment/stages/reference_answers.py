"""Reference answers: what rules such as reference_f1 compare an answer with."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence

from alignment.errors import DataError
from alignment.preferences import views
from alignment.preferences.record import PreferenceRecord

REFERENCE = "reference"  # the generator's name of a response that is there to be compared with, not judged


class ReferenceAnswers(dict[str, str]):
    """`reward.rules.prompt_text(prompt)` -> reference answer; `clash`: two records of one prompt that contradict."""

    clash: tuple[str, str] | None = None  # ids


def _marked(record: PreferenceRecord) -> list[str]:
    """The answers that are marked as references: one, unless the record contradicts itself."""
    generators = [(response, response.generator) for response in record.responses]
    return [r.messages[-1].content for r, generator in generators if generator and generator.name == REFERENCE]


def references(records: Sequence[PreferenceRecord], criterion: str | None = None) -> dict[str, str]:
    """Record id -> the answer to compare with: the one marked as a reference, else the best-ranked one."""
    best = {d.record_id: d.response[-1]["content"] for d in views.demonstrations(records, criterion)[0]}
    return best | {record.id: marked[-1] for record in records if (marked := _marked(record))}


def reference_answers(
    records: Sequence[PreferenceRecord], criterion: str | None, wanted: Container[str] | None = None
) -> ReferenceAnswers:
    """As `references`, by the text of the prompt: what scorers that compare with a reference are given.

    Of several records of one prompt a marked reference comes before a best-ranked answer, and of best-ranked answers
    the first record's. Where marked ones differ, `clash` names the first two records, for `agreed` to refuse. `wanted`:
    the prompts that matter; None: all.
    """
    from reward.rules import prompt_text

    found = references(records, criterion)
    answers, marked_by = ReferenceAnswers(), dict[str, str]()
    for record in records:
        text = prompt_text(views.plain(record.prompt.messages))
        if record.id not in found or (wanted is not None and text not in wanted):
            continue
        marked = _marked(record)
        if not marked:
            answers.setdefault(text, found[record.id])
        for reference in marked:
            if text not in marked_by:
                answers[text], marked_by[text] = reference, record.id
            elif answers[text] != reference and answers.clash is None:
                answers.clash = marked_by[text], record.id
    return answers


def agreed(answers: Mapping[str, str], rule: str, where: str) -> Mapping[str, str]:
    """The answers, for a rule that compares with them. Raises DataError where one prompt has two references."""
    if isinstance(answers, ReferenceAnswers) and answers.clash is not None:
        first, second = answers.clash
        who = f"records {first} and {second} have one prompt and" if first != second else f"record {first} has"
        raise DataError(
            f"{where}: {who} different reference answers, and rule {rule} compares with one; take one of them out, or "
            "use another rule"
        )
    return answers
