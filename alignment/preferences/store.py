"""Record files: JSONL, plain or gzipped (`.gz`), one record a line, UTF-8.

What a file may contain: a UTF-8 byte order mark, `\\r\\n` line ends, lines of any length, blank lines at the end.
What is an error, with file and line: a blank line in between (the mark of a broken write), invalid UTF-8,
malformed JSON, a repeated key, NaN or Infinity, a line that is not an object, a record that breaks the schema, a
record that an earlier line already holds, and a file without records.
"""

import codecs
import difflib
import gzip
import hashlib
import json
import os
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, cast

from pydantic import ValidationError

from alignment.atomic import storage_errors
from alignment.errors import DataError
from alignment.preferences.record import PreferenceRecord, dump, first_problem


def read_records(path: Path | str) -> list[PreferenceRecord]:
    """All records of a file, in order. DataError names the file, the line and the fix of the first problem."""
    path = Path(path)
    records = []
    for line, found in scan(path):
        if isinstance(found, str):
            raise DataError(f"{path}:{line}: {found}")
        records.append(found)
    return records


def scan(path: Path | str) -> Iterator[tuple[int, PreferenceRecord | str]]:
    """(line number, record) of every good line and (line number, problem) of every bad one.

    DataError when the file as a whole cannot be read or holds nothing.
    """
    path = Path(path)
    seen: dict[str, int] = {}
    for number, line in numbered_lines(path):
        record: PreferenceRecord | str
        try:
            parse_object(line)  # stricter than the schema's own parser about NaN and repeated keys
            record = PreferenceRecord.model_validate_json(line)
        except ValidationError as error:
            record = first_problem(error)
        except DataError as error:
            record = str(error)
        else:
            first = seen.setdefault(record.id, number)
            if first != number:
                record = f"record {record.id} is already in line {first}; keep one, with both their judgements"
        yield number, record


def numbered_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """(number from 1, line without its end). Blank lines come as b"", those at the end of the file not at all.

    DataError when the file cannot be read or holds nothing but blank lines.
    """
    blank: list[int] = []
    empty = True
    with _opened(path) as stream:
        for number, line in enumerate(stream, 1):
            line = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
            if not line.strip():
                blank.append(number)
                continue
            for earlier in blank:
                yield earlier, b""
            blank.clear()
            empty = False
            yield number, line.rstrip(b"\r\n")
    if empty:
        raise DataError(f"{path}: the file is empty; expected one JSON object a line")


def parse_object(line: bytes) -> dict[str, Any]:
    """One line as a JSON object. DataError, without the place, for anything else."""
    if not line:
        raise DataError("blank line between records; delete it")
    value = strict_json(line)
    if not isinstance(value, dict):
        kind = type(value).__name__
        raise DataError(f"expected a JSON object, not a {kind}; write one object a line (JSONL)")
    return value


def strict_json(text: bytes) -> Any:
    """A JSON value, of one line or of several. DataError for NaN and repeated keys too, which json.loads lets pass."""
    try:
        return json.loads(text.decode(), parse_constant=_refuse_constant, object_pairs_hook=_unique_keys)
    except UnicodeDecodeError as error:
        raise DataError(f"invalid UTF-8 at byte {error.start} of the line; save the file as UTF-8") from None
    except json.JSONDecodeError as error:
        line = f"line {error.lineno}, " if b"\n" in text else ""
        raise DataError(f"malformed JSON: {error.msg} at {line}column {error.colno}; mend the line") from None
    except RecursionError:
        raise DataError("malformed JSON: nested too deeply; flatten the line") from None
    except ValueError as error:  # an integer of thousands of digits
        raise DataError(f"malformed JSON: {error}") from None


def _refuse_constant(name: str) -> NoReturn:
    raise DataError(f"{name} is not a JSON number; write null or leave the key out")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise DataError(f"the key {twice!r} appears twice in one object; keep one")
    return values


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
            yield cast(BinaryIO, stream)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file{_close_names(path)}") from None
    except IsADirectoryError:
        raise DataError(f"{path}: this is a folder; name a file in it") from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path}: not a complete gzip file ({error}); get it again or rename it") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from None


def _close_names(path: Path) -> str:
    names = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    close = difflib.get_close_matches(path.name, names, n=3)
    if close:
        return f"; did you mean {' or '.join(str(path.parent / name) for name in close)}?"
    return "" if path.parent.is_dir() else f"; the folder {path.parent} does not exist either"


def file_digest(path: Path | str) -> str:
    """SHA-256 (64 hex digits) of the uncompressed bytes: the same for `x.jsonl` and `x.jsonl.gz`."""
    digest = hashlib.sha256()
    with _opened(Path(path)) as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def write_records(path: Path | str, records: Iterable[PreferenceRecord]) -> None:
    """Write records, one a line; the file appears whole or not at all, gzipped when its name ends in `.gz`.

    DataError for no records or a repeated id (the file could not be read back), StorageError for the disk.
    """
    write_lines(Path(path), _lines(Path(path), records))


def _lines(path: Path, records: Iterable[PreferenceRecord]) -> Iterator[str]:
    seen = set()
    for record in records:
        if record.id in seen:
            raise DataError(f"{path}: record {record.id} would be written twice; keep one")
        seen.add(record.id)
        yield dump(record)
    if not seen:
        raise DataError(f"{path}: there are no records to write")


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write text lines as UTF-8 with `\\n` ends, atomically: to a temporary file beside `path`, then renamed."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with storage_errors(path), temporary.open("wb") as file:
            # No name and time in the gzip header: equal records give equal files.
            packed = gzip.GzipFile("", "wb", fileobj=file, mtime=0) if path.suffix == ".gz" else None
            for line in lines:
                (packed or file).write(f"{line}\n".encode())
            if packed is not None:
                packed.close()
            file.flush()
            os.fsync(file.fileno())
            temporary.replace(path)
    finally:
        with suppress(OSError):  # gone after the rename; whatever else went wrong has been said above
            temporary.unlink()
