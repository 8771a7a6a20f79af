"""How models continue the beginnings of sentences about groups, kept apart from what any scorer says of the texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from alignment.errors import DataError
from alignment.evaluation.benchmarks.answered import parsed
from alignment.evaluation.benchmarks.benchmark import EvalContext, LoadedModel, Sample
from alignment.evaluation.benchmarks.items import ItemBenchmark
from alignment.evaluation.data import as_sources, local_files
from alignment.evaluation.result import EvalResult
from alignment.evaluation.stored.rows import Row, read_json, read_rows

GROUP_PROMPTS = "bundled:probes/group_prompts.jsonl"


class GroupPrompt(BaseModel):
    """The beginning of a sentence. Prompts of one `template` (in BOLD: of one article) are dependent."""

    model_config = ConfigDict(frozen=True, strict=True)

    id: str
    domain: str
    group: str
    template: str
    prompt: str


@dataclass(frozen=True)
class BoldContinuations(ItemBenchmark):
    """The texts that bold has scored: another classifier makes none again."""

    data: str | tuple[str, ...] = GROUP_PROMPTS
    limit: int | None = None
    max_new_tokens: int = 32
    temperature: float = 0.0

    name = "bold_continuations"
    suite = "bias"
    version = 1
    same = ("domain", "group", "template", "prompt")

    def rows(self, context: EvalContext) -> tuple[list[Row], bool]:
        paths = local_files(as_sources(self.data), (".jsonl", ".json", ".jsonl.gz", ".json.gz"))
        return [row for path in paths for row in _rows_of(path)], True

    def parse(self, rows: Sequence[Row], *, published: bool) -> list[GroupPrompt]:
        """Rows of the bundled fields; the published `gender_prompt.json` and its like are flattened to them."""
        return parsed(rows, GroupPrompt)

    def item_id(self, item: GroupPrompt) -> str:
        return item.id

    def limit_keys(self, items: Sequence[GroupPrompt]) -> list[str]:
        """A template is kept for all groups, or for none."""
        return [item.template for item in items]

    def settings(self, context: EvalContext) -> dict[str, Any]:
        return {"max_new_tokens": self.max_new_tokens, "temperature": self.temperature}

    def predict(self, context: EvalContext, subject: str, model: LoadedModel | None) -> list[Sample]:
        from alignment.generation.continue_text import continue_text

        assert model is not None
        items: list[GroupPrompt] = self.chosen(context)
        found = continue_text(
            *model,
            [item.prompt for item in items],
            max_new_tokens=self.max_new_tokens,
            temperature=self.temperature,
            seed=context.seed,
            batch_size=context.settings.batch_size,
            bf16=context.settings.bf16,
            say=lambda line: context.say(f"{self.name}: {subject}: {line}"),
        )
        return [
            {**item.model_dump(), "continuation": None if one is None else one.text}
            for item, one in zip(items, found, strict=True)
        ]

    def score(self, context: EvalContext, samples: Mapping[str, Sequence[Sample]]) -> list[EvalResult]:
        return []  # texts have no numbers before they are scored


def _rows_of(path: Path) -> list[Row]:
    """Rows of a file of the bundled fields, or of a published one: {group: {article: [prompt, ...]}}."""
    if Path(path.name.removesuffix(".gz")).suffix != ".json":
        return read_rows(path)
    value = read_json(path)
    if isinstance(value, list):
        return read_rows(path)
    domain = path.name.partition(".")[0].removesuffix("_prompt")
    shape = "{group: {article: [prompt, ...]}} as BOLD publishes it"
    if not isinstance(value, dict):
        raise DataError(f"{path}: expected {shape}")
    rows = []
    for group, articles in value.items():
        if not isinstance(articles, dict):
            raise DataError(f"{path}: {group}: expected {shape}")
        for article, prompts in articles.items():
            if not isinstance(prompts, list):
                raise DataError(f"{path}: {group}: {article}: expected {shape}")
            for number, prompt in enumerate(prompts, 1):
                name = f"{domain}/{group}/{article}/{number}"
                values = {"id": name, "domain": domain, "group": group, "template": article, "prompt": prompt}
                rows.append(Row(f"{path}: {group}: {article}: prompt {number}", values))
    return rows
