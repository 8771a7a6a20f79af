"""What docs/stages.md says about recipes is what the code does."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from alignment.recipe import Head, Recipe, parse_recipe
from alignment.stages import STAGES, dpo, groups, kto, ppo, ranking_loss, reward
from alignment.stages import dpo_rankings as rankings
from alignment.stages import sft as tuning
from alignment.stages.scoring import ScorerTerm
from reward.rules import NEEDS_REFERENCE, RULES, options_of

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "stages.md").read_text(encoding="utf-8")
HEADER = ["key", "type", "default", "meaning"]
MAKES = {"policy": "a policy", "reward": "a reward model", "records": "records", "study": "a study", None: "nothing"}
SIGNS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
TRAINED = ("sft", "reward", "process_reward", "dpo", "dpo_rankings", "kto", "ppo", "rloo", "grpo")

# --- reading the page ------------------------------------------------------------------------------------------------


@cache
def sections() -> dict[str, str]:
    """Heading -> what stands under it."""
    parts = re.split(r"^## (.+)$", PAGE, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def anchor(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def tables(text: str, header: list[str]) -> Iterator[list[str]]:
    """The rows of every table of a text that has this header."""
    here: list[str] | None = None
    for line in text.splitlines():
        if not line.startswith("|"):
            here = None
            continue
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if here is None:
            here = cells
        elif here == header and not set(line) <= set("|- "):
            assert len(cells) == len(header), line
            yield cells


def ticked(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", text)


def paragraph(start: str) -> str:
    """The paragraph of the page that begins like this."""
    return PAGE[PAGE.index(f"\n{start}") :].split("\n\n")[0]


@cache
def keys_of(section: str) -> dict[str, tuple[str, str]]:
    """Key -> type and default, as a section states them; the sections that a stage's `Keys:` names count."""
    text = sections()[section]
    by_anchor = {anchor(heading): heading for heading in sections()}
    line = re.search(r"^Keys: (.*?)(?:\n\n|\Z)", text, flags=re.DOTALL | re.MULTILINE)
    named = re.findall(r"\]\(#([\w-]+)\)", line[1]) if line and section in STAGES else []
    rows = [
        row for part in [*(sections()[by_anchor[name]] for name in named), text] for row in tables(part + "\n", HEADER)
    ]
    keys = [ticked(row[0])[0] for row in rows]
    assert len(set(keys)) == len(keys), f"{section}: a key is stated twice"
    return {key: (row[1], row[2]) for key, row in zip(keys, rows, strict=True)}


def examples() -> list[Any]:
    return [yaml.safe_load(block) for block in re.findall(r"^```yaml\n(.*?)^```", PAGE, flags=re.DOTALL | re.MULTILINE)]


@cache
def recipes() -> list[Recipe]:
    """Every example as a recipe; what is only a list of stages stands in the page's first recipe."""
    first, *rest = examples()
    whole = [first, *(first | {"stages": stages} for stages in rest)]
    return [parse_recipe(raw, f"docs/stages.md, example {number}") for number, raw in enumerate(whole, 1)]


# --- reading the code ------------------------------------------------------------------------------------------------


def leaves(annotation: Any) -> Iterator[Any]:
    """The types of a union, list or mapping, and the values of a Literal as one."""
    if get_origin(annotation) is Literal or not get_args(annotation):
        yield annotation
        return
    for part in get_args(annotation):
        yield from leaves(part)


def fields(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Every key of a settings model and of the models inside it, as the page writes them."""
    for name, field in model.model_fields.items():
        yield prefix + name, field
        for inner in leaves(field.annotation):
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                named = "NAME." if get_origin(field.annotation) is dict else ""
                yield from fields(inner, "TERM." if inner is ScorerTerm else f"{prefix}{name}.{named}")


MODELS: dict[str, type[BaseModel]] = {kind: stage.settings for kind, stage in STAGES.items()} | {"The recipe": Head}
KEYS = {section: dict(fields(model)) for section, model in MODELS.items()}


def constant(path: str, name: str) -> ast.expr:
    """A constant of a file that cannot be imported without torch."""
    for node in ast.parse((ROOT / path).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id == name:
            assert node.value is not None
            return node.value
    raise AssertionError(f"{path} has no {name}")


def default_of(field: FieldInfo) -> Any:
    return field.get_default(call_default_factory=True, validated_data={})


# --- keys ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("section", KEYS)
def test_every_key_is_stated_and_no_other(section: str) -> None:
    assert set(keys_of(section)) == set(KEYS[section])


@pytest.mark.parametrize("section", KEYS)
def test_stated_defaults_are_the_models(section: str) -> None:
    for key, field in KEYS[section].items():
        said = keys_of(section)[key][1]
        if field.is_required():
            assert said == "required", f"{section}.{key}"
            continue
        assert re.fullmatch(r"`.+`", said), f"{section}.{key}: {said}"
        stated, real = yaml.safe_load(said[1:-1]), default_of(field)
        if isinstance(real, BaseModel):
            stated = type(real).model_validate(stated)
        assert (stated, type(stated)) == (real, type(real)), f"{section}.{key}"


@pytest.mark.parametrize("section", KEYS)
def test_types_name_every_choice_and_bound(section: str) -> None:
    for key, field in KEYS[section].items():
        said = keys_of(section)[key][0]
        kinds = list(leaves(field.annotation))
        choices = {str(value) for kind in kinds if get_origin(kind) is Literal for value in get_args(kind)}
        if bool in kinds:
            choices = {"true", "false"}
        wanted = {f"`{choice}`" for choice in choices}
        wanted |= {
            f"{sign} {getattr(bound, name):g}"
            for bound in field.metadata
            for name, sign in SIGNS.items()
            if hasattr(bound, name)
        }
        if type(None) in kinds and not field.is_required() and default_of(field) is not None:
            wanted.add("or `null`")
        missing = {part for part in wanted if not re.search(rf"{re.escape(part)}(?![\w.])", said)}
        assert not missing, f"{section}.{key}: {said}"
        if choices and "text" not in said:
            assert set(ticked(said)) - {"null"} == choices, f"{section}.{key}: {said}"


def test_every_section_of_shared_keys_is_used() -> None:
    named = {name for kind in STAGES for name in re.findall(r"\]\(#([\w-]+)\)", sections()[kind])}
    shared = {anchor(heading) for heading in sections()} - set(STAGES) - {"the-recipe"}
    assert shared <= named


@pytest.mark.parametrize("kind", STAGES)
def test_a_section_says_what_the_stage_makes(kind: str) -> None:
    assert re.search(rf"Makes: {MAKES[STAGES[kind].produces]}\b", sections()[kind])
    rows = [row for row in tables(PAGE, ["stage", "what it does", "makes"]) if kind in ticked(row[0])]
    assert [row[2] for row in rows] == [MAKES[STAGES[kind].produces]]


# --- `trainer` -------------------------------------------------------------------------------------------------------


def trainer_defaults() -> dict[str, dict[str, Any]]:
    """Stage -> its defaults of `trainer`."""
    shared = ast.literal_eval(constant("alignment/stages/train.py", "DEFAULTS"))
    own = {
        "sft": tuning.DEFAULTS,
        "reward": reward.DEFAULTS,
        "process_reward": reward.DEFAULTS,  # it starts as `reward` does
        "dpo": dpo.DEFAULTS,
        "dpo_rankings": rankings.DEFAULTS,
        "kto": kto.DEFAULTS,
    }
    trl = ast.literal_eval(constant("alignment/stages/trl_on_policy.py", "DEFAULTS"))
    found = {kind: shared | defaults for kind, defaults in own.items()}
    return found | {"ppo": dict(ppo.DEFAULTS), "rloo": shared | trl, "grpo": shared | trl}


def test_stated_trainer_defaults_are_the_stages() -> None:
    stated: dict[str, dict[str, Any]] = {kind: {} for kind in TRAINED}
    for key, default, where in tables(PAGE, ["`trainer` key", "default", "in"]):
        kinds = set(ticked(where))
        for kind in set(TRAINED) - kinds if where.startswith("all") else kinds:
            assert ticked(key)[0] not in stated[kind], f"{kind}: {key} twice"
            stated[kind][ticked(key)[0]] = yaml.safe_load(ticked(default)[0])
    assert stated == trainer_defaults()


def test_refused_trainer_keys_are_those_of_the_code() -> None:
    owned = constant("alignment/training/arguments.py", "OWNED")
    assert isinstance(owned, ast.Dict)
    said = [key for row in tables(PAGE, ["refused `trainer` key", "because"]) for key in ticked(row[0])]
    assert sorted(said) == sorted(ast.literal_eval(key) for key in owned.keys if key is not None)
    assert set(groups.ELSEWHERE) <= set(ticked(sections()["Groups"]))


def test_trainer_keys_of_ppo_are_those_of_the_code() -> None:
    assert tuple(ticked(paragraph("`trainer` keys of `ppo`")))[2:] == ppo.TRAINER_KEYS
    assert tuple(ticked(paragraph("`trainer.optim` is one of")))[1:] == ppo.OPTIMIZERS


# --- losses and rules ------------------------------------------------------------------------------------------------


def test_losses_on_pairs_and_what_they_read() -> None:
    text = sections()["dpo"]
    groups_of = {name: set(ticked(keys)) for name, keys in re.findall(r"^- (\w+): (.+)$", text, re.MULTILINE)}
    said = {}
    for loss, reads, _ in tables(text, ["loss", "reads", "what it is"]):
        words = re.sub(r"`[^`]+`|,", "", reads).split()
        said[ticked(loss)[0]] = set(ticked(reads)).union(*(groups_of[word] for word in words))
    assert said == {loss: set(reads) for loss, reads in dpo.LOSSES.items()}


def test_losses_on_pairs_name_the_papers_of_their_functions() -> None:
    folder = ROOT / "alignment" / "training" / "losses"
    trees = [ast.parse((folder / name).read_text(encoding="utf-8")) for name in ("pairs.py", "unreferenced.py")]
    docs = {n.name: ast.get_docstring(n) or "" for t in trees for n in t.body if isinstance(n, ast.FunctionDef)}
    for loss, _, what in tables(sections()["dpo"], ["loss", "reads", "what it is"]):
        papers = set(re.findall(r"arXiv:[\d.]+\d", docs[ticked(loss)[0]]))
        assert papers == set(re.findall(r"arXiv:[\d.]+\d", what)), loss


def test_losses_on_rankings_and_what_they_read() -> None:
    rows = list(tables(sections()["Losses on rankings"], ["loss", "reads", "ties", "what it is"]))
    assert {ticked(row[0])[0]: ticked(row[1]) for row in rows} == {k: list(v) for k, v in ranking_loss.LOSSES.items()}


def test_losses_on_labels() -> None:
    assert [ticked(row[0])[0] for row in tables(sections()["kto"], ["loss", "what it is"])] == list(kto.LOSSES)


def test_rules_and_their_options() -> None:
    rows = list(tables(sections()["What scores"], ["rule", "options", "score"]))
    assert {ticked(row[0])[0]: ticked(row[1]) for row in rows} == {name: list(options_of(name)) for name in RULES}
    assert {ticked(row[0])[0] for row in rows if "reference answer" in row[2]} == NEEDS_REFERENCE


# --- examples and links ----------------------------------------------------------------------------------------------


def test_every_example_is_a_recipe() -> None:
    assert len(recipes()) == len(examples()) > 15


def test_every_example_passes_the_checks_before_a_run() -> None:
    """What only transformers can tell: `trainer` keys, and batches that a loss would not let be split."""
    for recipe in recipes():
        for spec in recipe.stages:
            spec.stage.check(spec.name, spec.settings)


def test_every_training_stage_has_an_example() -> None:
    assert {spec.kind for recipe in recipes() for spec in recipe.stages} >= set(TRAINED)


def test_links_lead_somewhere() -> None:
    anchors = {anchor(heading) for heading in sections()}
    for target in re.findall(r"\]\(([^)]+)\)", PAGE):
        if target.startswith("#"):
            assert target[1:] in anchors, target
        else:
            assert (ROOT / "docs" / target).exists(), target
