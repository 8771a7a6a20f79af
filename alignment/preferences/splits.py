"""Train, validation and test, drawn by a hash of the group, so that one prompt never lands in two splits."""

import hashlib
import math
from collections.abc import Mapping, Sequence

from alignment.errors import DataError
from alignment.preferences.record import PreferenceRecord, Split

SPLITS: tuple[Split, ...] = ("train", "validation", "test")
DEFAULT_FRACTIONS: Mapping[str, float] = {"train": 0.8, "validation": 0.1, "test": 0.1}


def assign_split(group_id: str, fractions: Mapping[str, float] = DEFAULT_FRACTIONS, salt: str = "") -> Split:
    """The split of a group: a function of its id, the fractions and the salt alone.

    Adding records never moves an old group. DataError when the fractions are not shares of the three splits.
    """
    check_fractions(fractions)
    digest = hashlib.sha256(f"{salt}\0{group_id}".encode()).digest()
    place = int.from_bytes(digest[:8]) / 2**64  # uniform on [0, 1]
    edge = 0.0
    used = [name for name in SPLITS if fractions.get(name, 0) > 0]  # in this order, whatever the mapping's
    for name in used[:-1]:
        edge += fractions[name]
        if place < edge:
            return name
    return used[-1]


def check_fractions(fractions: Mapping[str, float]) -> None:
    """DataError unless `fractions` are non-negative, name known splits and add up to 1."""
    unknown = sorted(set(fractions) - set(SPLITS))
    if unknown:
        raise DataError(f"unknown split {unknown[0]!r} in the fractions; the splits are {', '.join(SPLITS)}")
    total = math.fsum(fractions.values())
    if not all(share >= 0 for share in fractions.values()) or not math.isclose(total, 1, abs_tol=1e-9):
        raise DataError(f"split fractions must be >= 0 and add up to 1, not {dict(fractions)} (sum {total:g})")


def split_records(
    records: Sequence[PreferenceRecord],
    fractions: Mapping[str, float] = DEFAULT_FRACTIONS,
    salt: str = "",
) -> list[PreferenceRecord]:
    """The records, with a split for those that had none; a split that was given is never changed.

    A record without a split follows the others of its group where they have one. DataError when those are
    already in two splits: wherever it went, its prompt would be in both.
    """
    check_fractions(fractions)
    given: dict[str, dict[Split, str]] = {}
    for record in records:
        if record.split is not None:
            given.setdefault(record.group_id, {}).setdefault(record.split, record.id)
    return [
        record
        if record.split is not None
        else record.model_copy(update={"split": _split_of(record, given, fractions, salt)})
        for record in records
    ]


def _split_of(
    record: PreferenceRecord,
    given: Mapping[str, Mapping[Split, str]],
    fractions: Mapping[str, float],
    salt: str,
) -> Split:
    already = given.get(record.group_id, {})
    if len(already) > 1:
        where = " and ".join(f"{split} (record {other})" for split, other in already.items())
        raise DataError(f"record {record.id}: its group {record.group_id} is in {where}; give it one split")
    return next(iter(already), None) or assign_split(record.group_id, fractions, salt)
