"""The page: one file, no script, nothing fetched. Every text of a model or a user is escaped and made visible."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from alignment.evaluation.result import EvalResult
from alignment.report import display, story
from alignment.report.beside import beside, reading
from alignment.report.forgetting import matrix, undefined
from alignment.report.frontier_figure import not_shown
from alignment.report.heat import heat_grid
from alignment.report.load import Generation, Run
from alignment.report.overoptimisation import told as study_told
from alignment.report.overoptimisation_figure import study_figure
from alignment.report.paper import all_tables, study_name
from alignment.report.policy import groups, kl_target, measured, shown_answers
from alignment.report.policy_figures import figure_name
from alignment.report.reward import reward_quality, told
from alignment.report.suites import SUITES, TITLES, adjusted_p, against, by_line, from_several, lines, p_text, why
from alignment.report.tables import by_metric, methods, primary, sections, training_scorers

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATES = Path(__file__).parent / "templates"
CONTENTS = (
    ("chain", "Chain"),
    ("results", "Key results"),
    ("win-rates", "Win rates"),
    ("reward-quality", "Reward model"),
    ("bias", "Bias"),
    ("forgetting", "Forgetting"),
    *TITLES.items(),
    ("models", "Models and benchmarks"),
    ("training", "Training"),
    ("policy", "Policy optimisation"),
    ("overoptimisation", "Over-optimisation"),
    ("samples", "Samples"),
    ("data", "Data"),
    ("reproduce", "Reproduce"),
    ("caveats", "Caveats"),
)
PROMPTS_OPEN = 12  # shown at once
PROMPTS_FOLDED = 88  # after them, folded; the rest is in the file
CHARACTERS_OPEN = 1_200
CHARACTERS_FOLDED = 20_000


def render(run: Run, figures: Mapping[str, str]) -> str:
    """The whole page as HTML.

    `figures` maps a figure's name to its inline SVG, made by this package and trusted; everything else is escaped.
    Pure: reads nothing but its arguments and the package's own templates.
    """
    from markupsafe import Markup

    environment = _environment()
    css = (TEMPLATES / "style.css").read_text(encoding="utf-8")
    page = environment.get_template("page.html")
    prompts = sorted(run.generations, key=lambda g: hashlib.sha256(g.prompt_id.encode("utf-8", "replace")).hexdigest())
    tables = {table.name: table for table in all_tables(run)}
    parts = sections(run.results)
    quality = reward_quality(parts["reward_quality"])
    adjusted = adjusted_p(run.results)
    return page.render(
        run=run,
        m=run.manifest,
        css=Markup(css),
        css_digest=base64.b64encode(hashlib.sha256(css.encode()).digest()).decode(),
        summary=story.summary(run),
        chain=story.chain(run),
        unfinished=story.unfinished(run),
        caveats=story.caveats(run),
        main=primary(run.results),
        parts=parts,
        quality=quality,
        quality_told=told(quality),
        grid=heat_grid(run),
        matrix=matrix(run),
        notes=[*undefined(run), *not_shown(run)],
        titles=TITLES,
        adjusted=adjusted,
        overview={suite: lines(members, adjusted) for suite, members in parts.items()},
        own_scorers=training_scorers(run),
        tables=tables,
        figures={name: Markup(svg) for name, svg in figures.items()},
        prompts=prompts[:PROMPTS_OPEN],
        folded=prompts[PROMPTS_OPEN : PROMPTS_OPEN + PROMPTS_FOLDED],
        n_prompts=len(prompts),
        recipe=_yaml(run.manifest.recipe),
        samples_link=lambda result: samples_link(run, result),
        answers_link=lambda stage: "../" + quote(f"{stage.folder}/samples.jsonl"),
        responders=responders(run),
        contents=_contents(run),
        groups=groups(run),
    )


def _contents(run: Run) -> list[tuple[str, str]]:
    """The page's sections; some of them only where there is something to say."""
    parts = sections(run.results)
    absent = {"policy": not groups(run), "overoptimisation": not run.studies}
    absent |= {suite: not parts[suite] for suite in SUITES}
    return [(id, title) for id, title in CONTENTS if not absent.get(id)]


def samples_link(run: Run, result: EvalResult) -> str:
    """The relative link from report/index.html to the items behind a result; "" when there is no such file."""
    if result.samples_path is None or result.samples_path in run.missing_samples:
        return ""
    return "../" + quote(result.samples_path)


def responders(run: Run) -> tuple[str, ...]:
    """The models that answered at least one prompt, in the run's order."""
    answered = {name for g in run.generations for name in g.responses}
    return tuple(name for name in run.models if name in answered)


def cut(text: str) -> tuple[str, str, int]:
    """A response as the part shown, the part folded away, and how many characters are only in the file."""
    if len(text) <= CHARACTERS_OPEN:
        return text, "", 0
    return text[:CHARACTERS_OPEN], text[CHARACTERS_OPEN:CHARACTERS_FOLDED], max(0, len(text) - CHARACTERS_FOLDED)


def scores_of(generation: Generation, model: str) -> list[tuple[str, str]]:
    """Each scorer's score of one response; n/a where a scorer gave none."""
    found = []
    for name, scores in generation.scores.items():
        value = scores.get(model)
        found.append((name, display.NOT_AVAILABLE if value is None else display.number(value, "points")))
    return found


def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_finalize,
    )
    environment.globals.update(
        shown=display.shown,
        remarks=display.remarks,
        group_name=display.group_name,
        subject=display.subject,
        scorer=display.scorer,
        count=display.count,
        against=against,
        by_line=by_line,
        from_several=from_several,
        beside=beside,
        reading=reading,
        p_text=p_text,
        why=why,
        duration=display.duration,
        by_metric=by_metric,
        methods=methods,
        cut=cut,
        scores_of=scores_of,
        figure_name=figure_name,
        kl_target=kl_target,
        measured=measured,
        methods_of=story.METHODS,
        shown_answers=shown_answers,
        study_figure=study_figure,
        study_name=study_name,
        study_told=study_told,
    )
    return environment


def _finalize(value: Any) -> Any:
    """Runs over every expression before it is escaped: no template can forget it."""
    from markupsafe import Markup

    return display.visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _yaml(recipe: Mapping[str, Any]) -> str:
    import yaml

    return yaml.safe_dump(dict(recipe), sort_keys=False, allow_unicode=True, width=88)
