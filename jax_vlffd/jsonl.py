"""Append-only JSON lines that survive a kill, with one writer at a time."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import json
import os
import stat
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Final, Generic, TypeVar

from jax_vlffd.errors import UserError
from jax_vlffd.file_writing import atomic_write_bytes
from jax_vlffd.files import open_buffered
from jax_vlffd.json_reading import parse_json

Line = dict[str, Any]
Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")
Self = TypeVar("Self", bound="JsonLog[Any, Any]")
#: Reads one line as the key and the value of the index; None where its entry goes on in the next line. Raises
#: ValueError, LookupError, TypeError or AttributeError for a damaged line, UserError for one that is unwanted.
Parse = Callable[[bytes], tuple[Key, Value] | None]

_dumps: Final = functools.partial(json.dumps, allow_nan=False)
#: Bytes of a line; an annotation has some thousand.
MAX_LINE: Final = 64 << 20


def read_lines(path: Path, names: Sequence[str] = ("id",)) -> list[Line]:
    """Reads the lines of a file; of several with one id, the last.

    A torn last line, as a kill leaves it, is passed over.

    Args:
      path: the file.
      names: fields that tell lines apart; the first of them that a line holds is its id.

    Raises:
      UserError: the file cannot be read, or a line inside it is not a JSON object with an id.
    """
    parse = functools.partial(identified, names=names)
    fault = f"not a JSON object with {' or '.join(names)}; remove the line"
    try:
        with open_buffered(path) as file:
            entries = [entry for _, entry in _complete_lines(file, path, parse, fault)]
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    return list(dict(entry for entry in entries if entry is not None).values())


def identified(text: bytes, names: Sequence[str] = ("id",)) -> tuple[str, Line]:
    """Reads a line with its id; see `read_lines`, and `Parse` for what it raises."""
    line = parse_json(text, lenient=True)
    key, *_ = (str(line[name]) for name in names if line.get(name))
    return key, line


class JsonLog(Generic[Key, Value]):
    """A file of JSON lines to append to, and an index of what is there.

    An entry is one line, or several that are written together. Opening the file drops what a kill cut short,
    never a whole entry, and nothing is ever written behind a torn line. Until the `with` block ends, also after
    `finish`, no other process may write the file.

    Args:
      path: the file; made when missing.
      parse: reads a line.
      fault: what a damaged line is, and what to do about it.
      unique: of the entries with one key the last holds, and the others are dropped in the end; else the first
        holds, and all stay.
      sync_seconds: between syncs to disk; 0 to sync every entry. What a crash of the machine loses is younger.
      dumps: writes a line.

    Attributes:
      path: the file, links followed.
      index: key -> value of every entry, those that were appended among them.
      repaired: bytes of a torn entry that were cut off on opening.

    Raises:
      UserError: another process writes the file, it cannot be written or read, or a line in it is damaged.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        parse: Parse[Key, Value],
        *,
        fault: str,
        unique: bool = False,
        sync_seconds: float = 2.0,
        dumps: Callable[[Any], str] = _dumps,
    ):
        self.path = Path(
            os.path.realpath(path)
        )  # by whatever link it is named, one file has one lock
        self.index: dict[Key, Value] = {}
        self.repaired = 0
        self._parse, self._fault, self._unique = parse, fault, unique
        self._sync_seconds, self._dumps = sync_seconds, dumps
        self._repeated = False
        self._end = 0  # of what is whole, in bytes
        # The lock lies beside, as the file itself may be replaced.
        self._lock_path = self.path.with_name(f".{self.path.name}.lock")
        self._file = -1
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = _lock(self._lock_path)
        except BlockingIOError as error:
            raise UserError(
                f"{self.path}: another process is writing this file; wait for it or give another --out"
            ) from error
        except OSError as error:
            raise UserError(f"{self.path}: cannot be written ({error.strerror})") from error
        try:
            self._open()
        except BaseException as error:
            self._release()
            if isinstance(error, OSError):
                raise UserError(f"{self.path}: cannot be written ({error.strerror})") from error
            raise
        self._synced = time.monotonic()

    def append(self, *lines: Mapping[str, Any]) -> None:
        """Writes the lines of one entry; only then is it in the index.

        Raises:
          UserError: the file cannot be written (a full disk). The entry is then not in the file.
        """
        # A file name need not be UTF-8; what then stands in its text is written as JSON's own escape.
        texts = [self._dumps(line).encode("utf-8", "backslashreplace") + b"\n" for line in lines]
        entries = [self._parse(text) for text in texts]
        data = memoryview(b"".join(texts))
        end = self._end
        try:
            while self._end < end + len(data):
                self._end += os.write(self._file, data[self._end - end :])
            if time.monotonic() - self._synced >= self._sync_seconds:
                os.fsync(self._file)
                self._synced = time.monotonic()
        except OSError as error:
            os.ftruncate(self._file, end)  # or the next entry would follow a torn one
            self._end = end
            raise UserError(
                f"{self.path}: cannot be written ({error.strerror}); run again to go on"
            ) from error
        for entry in entries:
            self._note(entry)

    def finish(self) -> None:
        """Ends the writing: the file is whole, and may be replaced by whoever holds this log."""
        if self._file < 0:
            return
        os.fsync(self._file)
        self._close()
        if self._unique and self._repeated:
            self._drop_repeated()

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.finish()
        finally:
            self._release()

    def _open(self) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self._file = os.open(self.path, flags, 0o666)
        if not stat.S_ISREG(os.fstat(self._file).st_mode):
            raise UserError(f"{self.path}: not a regular file; name another")
        offset = 0
        with open(self._file, "rb", closefd=False) as file:
            for text, entry in _complete_lines(file, self.path, self._parse, self._fault):
                offset += len(text)
                if entry is not None:
                    self._end = offset
                    self._note(entry)
            self.repaired = file.seek(0, os.SEEK_END) - self._end
        if self.repaired:
            os.ftruncate(self._file, self._end)
        elif self._end and os.pread(self._file, 1, self._end - 1) != b"\n":
            self._end += os.write(self._file, b"\n")  # it alone was lost
        with contextlib.suppress(OSError):  # not every storage can
            _sync_folder(self.path.parent)

    def _note(self, entry: tuple[Key, Value] | None) -> None:
        if entry is None:
            return
        key, value = entry
        self._repeated = self._repeated or key in self.index
        if self._unique or key not in self.index:
            self.index[key] = value

    def _drop_repeated(self) -> None:
        last_entries: dict[Key, bytes] = {}
        entry_text = b""
        with self.path.open("rb") as file:
            for text, entry in _complete_lines(file, self.path, self._parse, self._fault):
                entry_text += text
                if entry is not None:
                    last_entries[entry[0]], entry_text = entry_text, b""
        atomic_write_bytes(self.path, b"".join(last_entries.values()))

    def _close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _release(self) -> None:
        self._close()
        # Removed while it is held: whoever opened it meanwhile finds that it is no longer the lock.
        self._lock_path.unlink(missing_ok=True)
        os.close(self._lock)


def _complete_lines(
    file: BinaryIO, path: Path, parse: Parse[Key, Value], fault: str
) -> Iterator[tuple[bytes, tuple[Key, Value] | None]]:
    """Every line with its entry, blank ones with None; of the last without its newline only what is whole."""
    number = 0
    while text := file.readline(MAX_LINE + 1):
        number += 1
        if len(text) > MAX_LINE:
            raise UserError(f"{path}, line {number}: longer than {MAX_LINE:,} bytes; remove it")
        try:
            entry = parse(text) if text.strip() else None
        except UserError as error:
            raise UserError(f"{path}, line {number}: {error}") from error
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            if is_torn(text):
                return
            raise UserError(f"{path}, line {number}: {fault}") from error
        yield text, entry


def is_torn(text: bytes) -> bool:
    """Whether text is the start of a line that was cut off: by a kill, or by a power cut (zeros)."""
    if text.endswith(b"\n") or text.lstrip(b"\0")[:1] not in (b"", b"{"):
        return False
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return True
    return False  # whole, and of another kind


def _lock(path: Path) -> int:
    """A handle of the locked file; raises BlockingIOError where another holds it."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(handle), os.stat(path)):
                    return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


def _sync_folder(folder: Path) -> None:
    """Makes a file's own entry in its folder survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
