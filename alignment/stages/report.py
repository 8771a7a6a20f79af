"""The report: one page, tables, figures and results.json, made from the files of the run alone."""

from __future__ import annotations

from alignment.runs import RunContext, StageResult
from alignment.stages.settings import StageSettings


class ReportSettings(StageSettings):
    """Nothing to set yet: a report shows all there is."""


def check(stage: str, settings: ReportSettings) -> None:
    """Nothing heavy to check."""


def run(context: RunContext, settings: ReportSettings) -> StageResult:
    from alignment.report.build import build_report

    build_report(context.run_dir, say=context.say)
    return StageResult()
