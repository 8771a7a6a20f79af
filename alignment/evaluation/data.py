"""Where a benchmark's items come from: local files as they were published, or a pinned revision elsewhere.

HubData is a split of a dataset repository on the hub; RepositoryData are files of a GitHub repository (repository.py).
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

from alignment.errors import DataError
from alignment.evaluation.stored.rows import Row, files_in, read_rows
from alignment.preferences.sources import resolve

ENDINGS = tuple(f".{kind}{packed}" for kind in ("jsonl", "json", "csv", "tsv") for packed in ("", ".gz"))


class UnavailableError(DataError):
    """Data from elsewhere that is neither in its cache nor to be fetched now."""


@dataclass(frozen=True)
class HubData:
    """A split of a dataset repository at a commit."""

    repo: str
    revision: str  # 40 hexadecimal digits
    split: str
    config: str | None = None

    def __str__(self) -> str:
        return f"hf:{self.repo}@{self.revision[:12]} ({'/'.join(filter(None, (self.config, self.split)))})"

    @property
    def place(self) -> str:
        """For a table."""
        return f"hf:{self.repo}@{self.revision[:8]}"


@dataclass(frozen=True)
class RepositoryData:
    """Files of a GitHub repository at a commit, as their authors published them.

    The commit says where they are; the checksums say what they are, from whichever mirror they come.
    """

    repo: str
    commit: str  # 40 hexadecimal digits
    files: Mapping[str, str]  # path in the repository -> SHA-256

    def __post_init__(self) -> None:
        if not re.fullmatch("[0-9a-f]{40}", self.commit):
            raise ValueError(f"{self.repo}: {self.commit!r} is no commit; write its 40 digits, no branch and no tag")
        for path, sha256 in self.files.items():
            if not re.fullmatch("[0-9a-f]{64}", sha256):
                raise ValueError(f"{self.repo}: {path}: {sha256!r} is no SHA-256")

    def __str__(self) -> str:
        return f"github:{self.repo}@{self.commit[:12]}"

    @property
    def place(self) -> str:
        """For a table."""
        return f"github:{self.repo}@{self.commit[:8]}"


@dataclass
class Hub:
    """The hub and GitHub, if they may be asked. Without a connection only what is cached is found, and at once."""

    allowed: bool = False
    _reached: bool | None = None
    _connected: dict[str, bool] = field(default_factory=dict)  # host -> whether it answers

    def rows(self, data: HubData) -> list[Row]:
        """All rows of a split. UnavailableError when it is not cached and the hub cannot or is not to be asked."""
        if not self.allowed:
            raise UnavailableError(f"{data}: the hub is not to be asked")
        if self._reached is None:
            self._reached = reachable()
        from datasets import load_dataset

        try:
            with nullcontext() if self._reached else offline():
                found = load_dataset(data.repo, data.config, split=data.split, revision=data.revision)
        except Exception as error:  # the HTTP library and its exceptions change between releases
            why = " ".join(str(error).split())[:200] or type(error).__name__
            why = why if self._reached else f"no connection to the hub, and not in its cache: {why}"
            raise UnavailableError(f"{data}: cannot be fetched ({why})") from error
        return [Row(f"{data}: row {number}", dict(row)) for number, row in enumerate(found, 1)]

    def files(self, data: RepositoryData) -> list[Path]:
        """The files of a repository, from the cache or else fetched. UnavailableError as above.

        Raises DataError for a file whose checksum is not the pinned one.
        """
        if not self.allowed:
            raise UnavailableError(f"{data}: GitHub is not to be asked")
        from alignment.evaluation.repository import fetched

        return fetched(data, self._connects)

    def _connects(self, address: str) -> bool:
        host = urlsplit(address).netloc
        if host not in self._connected:
            self._connected[host] = connects(address)
        return self._connected[host]


def reachable() -> bool:
    """Whether the hub answers: its library would try for half a minute, for every data set."""
    from huggingface_hub import constants

    return connects(constants.ENDPOINT)


def connects(address: str, seconds: float = 3.0) -> bool:
    """Whether the host of an address answers; no host does under HF_HUB_OFFLINE=1.

    After so many seconds it does not, however long the name service or the rest of its addresses would take.
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    if getproxies():
        return True  # only the library knows the way
    place = urlsplit(address)
    port = place.port or (80 if place.scheme == "http" else 443)
    answered = []

    def knock() -> None:
        with suppress(OSError), socket.create_connection((place.hostname, port), timeout=seconds):
            answered.append(True)

    asking = Thread(target=knock, daemon=True)
    asking.start()
    asking.join(seconds)
    return bool(answered)


@contextmanager
def offline() -> Iterator[None]:
    """Both libraries look into their caches alone, as under HF_HUB_OFFLINE=1."""
    import datasets
    from huggingface_hub import constants

    before = datasets.config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE
    datasets.config.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE = before


def local_files(sources: Sequence[str], endings: tuple[str, ...] = ENDINGS) -> list[Path]:
    """The files of `bundled:...`, paths and folders. DataError for a folder without any."""
    return files_in([resolve(source) for source in sources], endings)


def local_rows(sources: Sequence[str], endings: tuple[str, ...] = ENDINGS) -> list[Row]:
    """All rows of all files, in order. DataError names the file and line that cannot be read."""
    return [row for path in local_files(sources, endings) for row in read_rows(path)]


def as_sources(data: str | Sequence[str]) -> tuple[str, ...]:
    """One source or several, as several."""
    return (data,) if isinstance(data, str) else tuple(data)


def subset(items: Sequence[Any], keys: Sequence[str], limit: int | None) -> list[Any]:
    """At most `limit` items in their order: those whose keys have the smallest SHA-256; equal keys stay together.

    So the choice does not depend on the file's order, and a smaller one is a part of a larger one. It ends before the
    first key whose items would go beyond the limit; where that is the very first, its items are taken all the same.
    """
    if limit is None or limit >= len(items):
        return list(items)
    import hashlib

    together: dict[str, list[int]] = {}
    for i, key in enumerate(keys):
        together.setdefault(key, []).append(i)
    taken: list[int] = []
    for key in sorted(together, key=lambda key: hashlib.sha256(key.encode()).hexdigest()):
        if taken and len(taken) + len(together[key]) > limit:
            break
        taken += together[key]
    return [items[i] for i in sorted(taken)]
