"""Benchmarks over items of files, the hub or a repository, and those of them that `alignment score` scores."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, Field

from alignment.errors import DataError
from alignment.evaluation.benchmarks.benchmark import Benchmark, EvalContext, Sample, samples_file
from alignment.evaluation.benchmarks.measures import ItemValue, Measure
from alignment.evaluation.data import HubData, RepositoryData, UnavailableError, as_sources, local_rows, subset
from alignment.evaluation.result import EvalResult
from alignment.evaluation.statistics import paired_difference
from alignment.evaluation.stored import STORED
from alignment.evaluation.stored.rows import Row


@dataclass(frozen=True)
class ItemBenchmark(Benchmark):
    """`data`: files, folders or `bundled:`; () = the pinned data in `hub`.

    `limit`: at most so many items, by id; items that belong together (`limit_keys`) are taken whole or left.
    """

    data: str | tuple[str, ...] = ()
    limit: Annotated[int, Field(ge=1)] | None = None

    hub: ClassVar[HubData | RepositoryData | None] = None

    @abstractmethod
    def parse(self, rows: Sequence[Row], *, published: bool) -> list[Any]:
        """Items of all rows of the published files, or else of the hub's columns. DataError names a row."""

    @abstractmethod
    def item_id(self, item: Any) -> str:
        """What an item is called; unique."""

    def read(self, sources: Sequence[str]) -> list[Row]:
        """The rows of published files, the user's or fetched ones. DataError names the line that cannot be read."""
        return local_rows(sources)

    def rows(self, context: EvalContext) -> tuple[list[Row], bool]:
        """The rows, and whether they are of published files, or else of the hub. DataError, UnavailableError."""
        if self.data:
            return self.read(as_sources(self.data)), True
        if self.hub is None:
            raise UnavailableError(f"{self.name}: its data is on no hub; give the file: --data {self.name}=FILE")
        try:
            if isinstance(self.hub, RepositoryData):
                return self.read([str(path) for path in context.hub.files(self.hub)]), True
            return context.hub.rows(self.hub), False
        except UnavailableError as error:
            raise UnavailableError(f"{self.name}: {error}; give the file: --data {self.name}=FILE") from error

    def chosen(self, context: EvalContext) -> list[Any]:
        """The items to evaluate on, read once per evaluation. DataError for none, or an id that is there twice."""
        if self.name not in context.items:
            rows, published = self.rows(context)
            items = self.parse(rows, published=published)
            ids = [self.item_id(item) for item in items]
            if not items:
                raise DataError(f"{self.name}: {', '.join(as_sources(self.data)) or self.hub}: no items")
            if len(set(ids)) < len(ids):
                twice = next(one for one in ids if ids.count(one) > 1)
                raise DataError(f"{self.name}: item {twice} is there twice; ids pair the models' answers")
            limit = self.limit if self.limit is not None else context.settings.items
            taken = subset(items, self.limit_keys(items), limit)
            if limit is not None and len(taken) > limit:
                context.say(f"{self.name}: {len(taken)} items belong together and are taken whole, over limit {limit}")
            context.items[self.name] = taken
        return context.items[self.name]

    def limit_keys(self, items: Sequence[Any]) -> list[str]:
        """What `limit` chooses by, one for each item; items of equal keys are kept or left together."""
        return [self.item_id(item) for item in items]

    def prepare(self, context: EvalContext) -> None:
        self.chosen(context)

    def inputs(self, context: EvalContext) -> Any:
        from alignment.atomic import json_digest

        items = json_digest({"items": [_plain(item) for item in self.chosen(context)]})
        return {"items": items, "bf16": context.settings.bf16, **self.settings(context)}


# item id -> (value, cluster) of every item asked; None: it has no value (no answer, or nothing that can be read)
Paired = Mapping[str, tuple[float | None, Hashable]]


@dataclass(frozen=True)
class StoredBenchmarkRun(ItemBenchmark):
    """A benchmark whose samples are items of STORED[name]: `alignment score NAME samples/NAME/MODEL.jsonl` reads them.

    So a model's predictions and published ones go through the same code. To the levels come paired changes from the
    baseline for every metric that `paired` gives per-item values of, over all items and over those of every group.
    """

    higher_is_better: ClassVar[Mapping[str, bool]] = {}  # of the metrics of `paired`; not named: neither

    def stored(self) -> str:
        """The benchmark's name in STORED."""
        return self.name

    def results_version(self) -> int:
        return max(self.version, STORED[self.stored()].version)

    def paired(self, items: Sequence[Any]) -> Mapping[str, Paired]:
        """Metric -> per-item values (natural units) whose mean is the metric, with the cluster of each item."""
        return {}

    def records(self, rows: Sequence[Sample]) -> list[Any]:
        """The samples of one subject as items of STORED."""
        record = STORED[self.stored()].record
        return [record.model_validate({**row, "model": ""}) for row in rows]

    def score(self, context: EvalContext, samples: Mapping[str, Sequence[Sample]]) -> list[EvalResult]:
        stored = STORED[self.stored()]
        items = {
            subject: [stored.record.model_validate({**row, "model": subject}) for row in rows]
            for subject, rows in samples.items()
        }
        results = []
        for subject, own in items.items():
            place = _relative(context, samples_file(context.out_dir, self.name, subject))
            more = {"model": subject, "benchmark": self.name, "version": self.results_version(), "suite": self.suite}
            levels = stored.score(own, seed=context.seed)
            results += [level.model_copy(update={**more, "samples_path": place}) for level in levels]
            if subject != context.baseline and context.baseline in items:
                results += self._changes(context, subject, own, items[context.baseline])
                results += self._changes_by_group(context, subject, own, items[context.baseline], levels)
        return results

    def measures(self, rows: Sequence[Sample]) -> list[Measure]:
        return self.measured(self.records(rows))

    def measures_by_group(self, rows: Sequence[Sample]) -> Mapping[str, Sequence[Measure]]:
        groups = STORED[self.stored()].groups(self.records(rows))
        return {group: self.measured(items) for group, items in groups.items()}

    def set_changes(
        self, context: EvalContext, subject: str, rows: Sequence[Sample], baseline: Sequence[Sample], *, groups: bool
    ) -> list[EvalResult]:
        own, before = self.records(rows), self.records(baseline)
        found = self.changes_of_sets(context, subject, own, before)
        if groups:
            stored = STORED[self.stored()]
            there = stored.groups(before)
            for group, items in stored.groups(own).items():
                found += self.changes_of_sets(context, subject, items, there.get(group, ()), group)
        return found

    def changes_of_sets(
        self,
        context: EvalContext,
        subject: str,
        own: Sequence[Any],
        baseline: Sequence[Any],
        group: str | None = None,
    ) -> list[EvalResult]:
        """The changes of metrics that are no mean over items, over the items that both models have; `group`: whose."""
        return []

    def measured(self, items: Sequence[Any]) -> list[Measure]:
        """The item values behind the metrics of some items, all or a group's."""
        return [
            Measure(
                metric,
                {key: ItemValue(_percent(value), cluster) for key, (value, cluster) in values.items()},
                "percent",
                self.higher_is_better.get(metric),
            )
            for metric, values in self.paired(items).items()
        ]

    def _changes_by_group(
        self,
        context: EvalContext,
        subject: str,
        own: Sequence[Any],
        baseline: Sequence[Any],
        levels: Sequence[EvalResult],
    ) -> Iterator[EvalResult]:
        """The same changes over the items of one group, of the metrics that the group has a level of."""
        stored, known = STORED[self.stored()], {(f"{level.metric}_difference", level.group) for level in levels}
        there = stored.groups(baseline)
        for group, items in stored.groups(own).items():
            for change in self._changes(context, subject, items, there.get(group, ()), group):
                if (change.metric, group) in known:
                    yield change

    def _changes(
        self,
        context: EvalContext,
        subject: str,
        own: Sequence[Any],
        baseline: Sequence[Any],
        group: str | None = None,
    ) -> list[EvalResult]:
        """All changes over some items; `group`: whose items they are, None for all."""
        here, there = self.paired(own), self.paired(baseline)
        results = []
        for metric in here:
            mine, other = here[metric], there.get(metric, {})
            both = [
                (_percent(value), _percent(other[item][0]), cluster)
                for item, (value, cluster) in mine.items()
                if item in other
            ]
            scored = [(new, old, cluster) for new, old, cluster in both if new is not None and old is not None]
            change = paired_difference(
                [new for new, _, _ in scored],
                [old for _, old, _ in scored],
                [cluster for _, _, cluster in scored],
                seed=context.seed,
            )
            better = self.higher_is_better.get(metric)
            more = {"unit": "percent", "higher_is_better": better, "compared_to": context.baseline, "group": group}
            missing = len(set(mine) | set(other)) - len(scored)
            results.append(self.result(context, subject, f"{metric}_difference", change, missing, **more))
        return results + self.changes_of_sets(context, subject, own, baseline, group)


def _plain(item: Any) -> Any:
    """An item as JSON."""
    if isinstance(item, BaseModel):
        return item.model_dump(mode="json")
    return asdict(item) if is_dataclass(item) and not isinstance(item, type) else item


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share


def _relative(context: EvalContext, path: Path) -> str:
    return path.relative_to(context.run_dir or context.out_dir).as_posix()
