"""Turns a finished run folder into a page, paper tables and figures. Reads files only; no model is loaded."""

from alignment.report.build import build_report
from alignment.report.load import Run, load_run

__all__ = ["Run", "build_report", "load_run"]
