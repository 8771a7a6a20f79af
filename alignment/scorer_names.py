"""What scores are called in results: by the stages that log them and the report that reads them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

OVERALL = "overall"  # the criterion of the score that orders, which no term may be called


def term_label(term: Mapping[str, Any]) -> str:
    """The name in results of a term of a reward: its own, the rule's, `ensemble`, or what is short for the model.

    `auto` -> reward; a stage or registry reference as it is; of a path or repository, its last part.
    """
    name = term.get("name") or term.get("rule") or ("ensemble" if term.get("models") else None)
    model = str(term.get("model") or "")
    return str(name or ("reward" if model == "auto" else re.split(r"[/:]", model.rstrip("/"))[-1]))
