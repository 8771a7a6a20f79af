"""How one number, one duration and one hostile text are shown; the same in HTML, LaTeX and figures."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from alignment.evaluation.result import EvalResult

MINUS = "−"
NARROW_SPACE = "\u202f"
NOT_AVAILABLE = "n/a"

# unit -> (factor, decimals, suffix of the value; the interval carries none)
UNITS = {
    "share": (100.0, 1, "%"),
    "percent": (1.0, 1, "%"),
    "bits/byte": (1.0, 3, ""),
    "nats": (1.0, 3, ""),
    "characters": (1.0, 0, ""),
    "tokens": (1.0, 0, ""),
    "points": (1.0, 2, ""),
    "correlation": (1.0, 2, ""),
}
OTHER_UNIT = (1.0, 3, "")
LENGTH_UNITS = ("characters", "tokens")
TITLES = {  # benchmark -> how its authors write it, where a metric has no label of its own
    "bbq": "BBQ",
    "crows_pairs": "CrowS-Pairs",
    "gsm8k": "GSM8K",
    "mt_bench": "MT-Bench",
    "stereoset": "StereoSet",
    "truthfulqa": "TruthfulQA",
    "winobias": "WinoBias",
    "xstest": "XSTest",
}

# Words in a metric's name -> the value that means "no difference" between the two models compared.
NULLS = (
    ("win_rate", 0.5),
    *((word, 0.0) for word in ("difference", "_diff", "delta", "change", "_tax", "bwt", "fwt", "forgetting")),
)

# Characters that hide, reorder or cannot be written: controls but tab and newline, soft hyphen, zero-width and
# bidirectional marks (not the joiners of Indic scripts, Persian and emoji), tag characters, lone surrogates.
_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\U000e0000-\U000e007f\ud800-\udfff]"
)


def visible(text: str) -> str:
    """`text` with every hiding, reordering or unprintable character shown as its code: ⟨U+202E⟩."""
    return _HIDDEN.sub(lambda found: f"⟨U+{ord(found[0]):04X}⟩", text)


@dataclass(frozen=True)
class Shown:
    """A result in words. `reason` is not empty when the value is undefined; then there is no number at all."""

    value: str
    interval: str
    n: str
    reason: str


def shown(result: EvalResult) -> Shown:
    """`61.7%`, `[55.0, 68.1]`, `200`; an undefined value is `n/a` with the reason, never 0."""
    signed = null_value(result) == 0.0
    n = count(result.n_scored)
    if result.value is None:
        return Shown(NOT_AVAILABLE, "", n, undefined_reason(result))
    interval = "no interval"
    if result.ci_low is not None and result.ci_high is not None:
        low, high = (number(x, result.unit, signed=signed, suffix=False) for x in (result.ci_low, result.ci_high))
        interval = f"[{low}, {high}]"
    return Shown(number(result.value, result.unit, signed=signed), interval, n, "")


def undefined_reason(result: EvalResult) -> str:
    """Why a result has no value, in words; empty when it has one.

    Of `VARIANT OF THE METRIC: undefined, REASON` the reason: the variant stands with the methods.
    """
    if result.value is not None:
        return ""
    if result.n_scored == 0 and result.n_unscored:
        return f"none of {count(result.n_unscored)} items could be scored"
    if result.method and not result.method.startswith("no data"):
        return re.split(r"(?:^|: )undefined[,:] |: (?=undefined for )", result.method, maxsplit=1)[-1]
    return f"undefined on these {count(result.n_scored)} items" if result.n_scored else "no items"


def method_kind(method: str) -> str:
    """What was computed, without what the method counts; why there is no interval stays."""
    first, *rest = method.split("; ")
    return "; ".join([first, *(part for part in rest if "no interval" in part or part.endswith("for an interval"))])


def number(value: float, unit: str, *, signed: bool = False, suffix: bool = True) -> str:
    """A value in its unit's usual digits; `signed` is for differences (a share's then is in points, pp)."""
    factor, decimals, mark = UNITS.get(unit, OTHER_UNIT)
    if not math.isfinite(value):
        return "not finite"
    text = grouped(value * factor, decimals)
    if signed and not text.startswith(MINUS) and text.strip("0."):
        text = "+" + text
    if suffix and mark:
        text += f"{NARROW_SPACE}pp" if signed else mark
    return text


def grouped(value: float, decimals: int) -> str:
    """Fixed decimals, a real minus, thousands set apart by a narrow space from 10 000 on; never "-0"."""
    text = f"{abs(value):,.{decimals}f}"
    text = text.replace(",", NARROW_SPACE if abs(value) >= 10_000 else "")
    negative = value < 0 and any(digit in text for digit in "123456789")
    return MINUS + text if negative else text


def count(value: int) -> str:
    return grouped(value, 0)


def duration(seconds: float | None) -> str:
    """`8 s`, `4 min 12 s`, `2 h 05 min`."""
    if seconds is None:
        return NOT_AVAILABLE
    if 0 < seconds < 1:
        return "under 1 s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def null_value(result: EvalResult) -> float | None:
    """The value of a comparison at which the two models do not differ; None when the result compares nothing."""
    if result.compared_to is None:
        return None
    return next((null for word, null in NULLS if word in result.metric), None)


def verdict(result: EvalResult) -> str:
    """What a comparison's 95% interval allows to say: "higher than base", "no clear difference from base"...

    Empty when the result is no comparison, or has no interval to decide by. Where lower is better, it says so.
    """
    null = null_value(result)
    if null is None or result.ci_low is None or result.ci_high is None or result.value is None:
        return ""
    against = "50%" if null else str(result.compared_to)
    if result.ci_low <= null <= result.ci_high:
        return f"no clear difference from {against}"
    higher = result.ci_low > null
    text = f"{'higher' if higher else 'lower'} than {against}"
    return f"{text} ({'worse' if higher else 'better'})" if result.higher_is_better is False else text


def scorer(result: EvalResult) -> str:
    """The scorer in a metric's name (`win_rate/length` -> length), or ""."""
    return result.metric.partition("/")[2]


def metric_name(result: EvalResult) -> str:
    """The reader's name of a metric; scorer and unit of length are added where the label leaves them out."""
    head, _, by = result.metric.partition("/")
    name, title = result.label, TITLES.get(result.benchmark, result.benchmark.replace("_", " "))
    if not name or name.startswith(f"{result.benchmark}: "):
        name = f"{title}: {name.removeprefix(f'{result.benchmark}: ') or head.replace('_', ' ')}"
    if name.split(" ")[0].rstrip(":").isalpha():  # a word, not an identifier such as arc_easy
        name = name[0].upper() + name[1:]
    if by and by not in name and by.replace("_", " ") not in name:
        name += f" ({by})"
    return f"{name} ({result.unit})" if result.unit in LENGTH_UNITS and result.unit not in name else name


def subject(result: EvalResult) -> str:
    """`dpo` or `dpo vs base`."""
    return f"{result.model} vs {result.compared_to}" if result.compared_to else result.model


def group_name(result: EvalResult) -> str:
    """`occupation status`; empty for all groups together."""
    return (result.group or "").replace("_", " ")


def remarks(result: EvalResult) -> str:
    """What stands beside a row: what its interval allows to say, and how many items it leaves out."""
    left_out = f"{count(result.n_unscored)} not scored" if result.n_unscored and result.value is not None else ""
    return "; ".join(filter(None, (verdict(result), left_out)))
