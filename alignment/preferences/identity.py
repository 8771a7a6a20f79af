"""What makes two texts the same: exact content ids, and a folded key that finds near-duplicates."""

import hashlib
import json
import unicodedata
from typing import Any

# 32 hex digits = 128 bits of SHA-256: among 10^9 texts the chance of any collision is about 10^-21, and the ids
# that every order repeats take half the room of all 64 digits.
ID_LENGTH = 32


def canonical_json(value: Any) -> str:
    """The one JSON text of a value: sorted keys, no spaces, no escapes of non-ASCII, no NaN (ValueError)."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False)


def content_id(kind: str, value: Any) -> str:
    """Hex id of `value` among things of this `kind`, over the exact text (nothing is folded)."""
    return hashlib.sha256(canonical_json([kind, value]).encode()).hexdigest()[:ID_LENGTH]


def dedup_key(text: str) -> str:
    """`text` with case folded, punctuation removed and white space collapsed; equal keys = near-duplicates.

    A text of nothing but punctuation is its own key, so that "?" and "!" are not duplicates of each other.
    """
    kept = "".join(c for c in text.casefold() if not unicodedata.category(c).startswith("P"))
    return " ".join(kept.split()) or text
