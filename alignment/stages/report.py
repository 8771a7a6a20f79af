"""The report: one page, tables, figures and results.json, made from the files of the run alone."""

from __future__ import annotations

from alignment.atomic import file_digest
from alignment.runs import RunContext, StageResult
from alignment.stages.settings import StageSettings


class ReportSettings(StageSettings):
    """Nothing to set yet: a report shows all there is."""


def check(stage: str, settings: ReportSettings) -> None:
    """Nothing heavy to check."""


def run(context: RunContext, settings: ReportSettings) -> StageResult:
    from alignment.report.build import build_report

    page = build_report(context.run_dir, say=context.say)
    numbers = page.with_name("results.json")  # names the recipe; the page itself may be edited
    return StageResult(pages={numbers.relative_to(context.run_dir).as_posix(): file_digest(numbers)})
