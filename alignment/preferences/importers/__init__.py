"""Source formats. Adding one is a file with `parse` and a row in this table."""

from collections.abc import Callable, Mapping
from typing import Any

from alignment.preferences.importers import hh_rlhf, messages, trl
from alignment.preferences.record import PreferenceRecord

Parse = Callable[[dict[str, Any], int], PreferenceRecord]  # (row, line number) -> record, or DataError: refused

IMPORTERS: Mapping[str, Parse] = {
    "hh-rlhf": hh_rlhf.parse,
    "trl": trl.parse,
    "messages": messages.parse,
}
