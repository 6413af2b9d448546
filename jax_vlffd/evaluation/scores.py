"""The scores table: one row a frame, as an evaluation makes it and as `scores.csv` stores it.

Any detector's scores can be put in the same table; nothing here knows of a model.
"""

from __future__ import annotations

import csv
import hashlib
import io
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Final

import numpy as np

from jax_vlffd.errors import UserError
from jax_vlffd.vocabulary import REGIONS, regions_named

#: Columns that a file must have: what the metrics are computed and grouped by.
REQUIRED_COLUMNS: Final = ("dataset", "method", "video", "label", "probability")
#: The contract's columns, in the order they are written.
COLUMNS: Final = ("dataset", "split", "method", "video", "frame", "id", "label", "probability")
#: Optional columns: evaluation set (default: dataset), detector, the record's and the model's words.
OPTIONAL_COLUMNS: Final = ("set", "detector", "logit", "regions", "caption", "reasons")

#: Columns of text.
_NAMES: Final = frozenset((*COLUMNS, *OPTIONAL_COLUMNS)) - {
    "label",
    "probability",
    "logit",
    "regions",
}
#: An array of names is as wide as its longest: letters that a name may have whatever the number of rows, and
#: bytes of an array with a longer one.
_WIDTH: Final = 256
_MAX_BYTES: Final = 1 << 28
#: Between a probability and that of the logit beside it, which others may have rounded.
_MAX_GAP: Final = 0.01
#: What a spreadsheet takes for a formula, behind any apostrophes; and an apostrophe that was put before one.
_FORMULA: Final = re.compile(r"'*([=@\t\r]|[+-].*[(|!=@])", re.DOTALL)
_ESCAPED: Final = re.compile(r"^'('*([=@\t\r]|[+-].*[(|!=@]).*)$", re.DOTALL)

_MIN_PROBABILITY: Final = 1e-12  # a probability of exactly 0 or 1 has no finite logit


@dataclass(frozen=True)
class Scores:
    """The scores of one detector; every array has one entry a frame ([n]).

    Attributes:
      dataset, split, method, video, frame, id: strings. A frame whose `video` is empty is a video
        of its own. Real frames may have any method (`real`, empty, or that of their pair).
      label: int, 0 real, 1 fake.
      probability: float64 in [0, 1], of being fake, before any calibration.
      set_name: name of the evaluation set (default: the dataset's); within it a video is (dataset,
        method, video).
      logit: float64 or None; the log-odds where the probability alone would saturate.
      regions: bool [n, 4] in the order of vocabulary.REGIONS, the record's forged regions, or None.
      caption: the record's caption, or None.
      reasons: what the detector says in words, or None.
      types: bool [n, 4, 5], the record's forgery types by region, or None. Not stored in `scores.csv`.
      embedding: float32 [n, E], the detector's joint embedding of the frame, or None. Not stored either.
    """

    dataset: np.ndarray
    split: np.ndarray
    method: np.ndarray
    video: np.ndarray
    frame: np.ndarray
    id: np.ndarray
    label: np.ndarray
    probability: np.ndarray
    set_name: np.ndarray = None  # type: ignore[assignment]  # an array from __post_init__ on
    logit: np.ndarray | None = None
    regions: np.ndarray | None = None
    caption: np.ndarray | None = None
    reasons: np.ndarray | None = None
    types: np.ndarray | None = None
    embedding: np.ndarray | None = None

    def __post_init__(self) -> None:
        """Converts sequences to arrays and checks lengths and ranges (UserError names the row)."""
        assign = object.__setattr__
        for name in ("dataset", "split", "method", "video", "frame", "id"):
            assign(self, name, _names(name, getattr(self, name)))
        names = self.dataset if self.set_name is None else self.set_name
        assign(self, "set_name", _names("set", names))
        assign(self, "label", np.asarray(self.label, dtype=np.int64))
        assign(self, "probability", np.asarray(self.probability, dtype=np.float64))
        if self.logit is not None:
            assign(self, "logit", np.asarray(self.logit, dtype=np.float64))
        if self.regions is not None:
            assign(self, "regions", np.asarray(self.regions, dtype=bool).reshape(-1, len(REGIONS)))
        for name in ("caption", "reasons"):  # long texts: fixed-width strings would waste memory
            if getattr(self, name) is not None:
                assign(self, name, np.asarray(getattr(self, name), dtype=object))
        count = len(self.label)
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None and len(value) != count:
                raise UserError(f"scores: {field.name} has {len(value)} entries, label has {count}")
        self._refuse(~np.isin(self.label, (0, 1)), self.label, "the label is neither 0 nor 1")
        inside = (self.probability >= 0) & (self.probability <= 1)  # False for nan as well
        self._refuse(~inside, self.probability, "the probability is not a number in [0, 1]")
        if self.logit is not None:
            self._refuse(~np.isfinite(self.logit), self.logit, "the logit is not finite")

    def _refuse(self, wrong: np.ndarray, values: np.ndarray, what: str) -> None:
        if wrong.any():
            row = int(np.argmax(wrong))
            name = self.id[row] or f"{self.dataset[row]}/{self.method[row]}/{self.video[row]}"
            raise UserError(f"scores, row {row + 1} ({name}): {what}: {values[row]}")

    def __len__(self) -> int:
        return len(self.label)

    def select(self, rows: np.ndarray) -> Scores:
        """The rows of a mask or of an index array."""
        chosen: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{k: v[rows] for k, v in chosen.items() if v is not None})

    def with_set_name(self, set_name: str) -> Scores:
        """The same scores under the evaluation set name `set_name`."""
        return replace(self, set_name=np.full(len(self), set_name))

    def logits(self) -> np.ndarray:
        """Float64 [n]: the logits, or the log-odds of the probabilities (clipped to 1e-12)."""
        if self.logit is not None:
            return self.logit
        clipped = np.clip(self.probability, _MIN_PROBABILITY, 1 - _MIN_PROBABILITY)
        return np.log(clipped) - np.log1p(-clipped)

    def videos(self) -> np.ndarray:
        """Int [n]: which video a frame belongs to, numbered in the order of the sorted keys.

        The key is (set, dataset, method, video id), as the same id occurs under several methods,
        and the label, so that a real never joins the fake that was made of it under the same names.
        """
        video = self._video_names()
        return _number_keys(self.set_name, self.dataset, self.method, self.label, video)

    def _video_names(self) -> np.ndarray:
        """Names of the videos; a frame without a video has its id, or its row's number."""
        unnamed = self.video == ""
        if not unnamed.any():
            return self.video
        numbers = np.arange(len(self)).astype(np.str_)
        own = np.char.add("\x00", np.where(self.id == "", numbers, self.id))
        return np.where(unnamed, own, self.video)

    def strata(self) -> np.ndarray:
        """Int [n]: the groups (set, dataset, method, label), whose sizes every resample keeps."""
        return _number_keys(self.set_name, self.dataset, self.method, self.label)

    def video_digest(self) -> str:
        """A fingerprint of the videos, not of their frames: equal for tables of the same videos.

        It is empty if a frame has neither video nor id: then nothing tells which video a row is of.
        """
        if ((self.video == "") & (self.id == "")).any():
            return ""
        first = np.unique(self.videos(), return_index=True)[1]
        columns = (self.set_name, self.dataset, self.method, self.label, self._video_names())
        keys = [np.asarray(column)[first].tolist() for column in columns]
        return hashlib.sha256(repr(list(zip(*keys, strict=True))).encode()).hexdigest()

    def regions_in_reasons(self) -> np.ndarray | None:
        """Bool [n, 4]: the regions that the detector's reasons name, or None without reasons."""
        if self.reasons is None:
            return None
        named = [[r in names for r in REGIONS] for names in map(regions_named, self.reasons)]
        return np.asarray(named, dtype=bool).reshape(-1, len(REGIONS))


def _names(column: str, values: Any) -> np.ndarray:
    if not (isinstance(values, np.ndarray) and values.dtype.kind == "U"):
        width = max((len(str(value)) for value in values), default=0)
        if width > _WIDTH and 4 * width * len(values) > _MAX_BYTES:
            raise UserError(f"scores: {column} has a name of {width:,} letters; shorten it")
    return np.asarray(values, dtype=np.str_)


def _number_keys(*columns: np.ndarray) -> np.ndarray:
    """Numbers the distinct rows of the columns from 0, in sorted order; int64 [n]."""
    key = np.zeros(len(columns[0]), dtype=np.int64)
    for column in columns:
        values, codes = np.unique(column, return_inverse=True)
        key = np.unique(key * len(values) + codes, return_inverse=True)[1]
    return key


def video_means(
    probability: np.ndarray, labels: np.ndarray, videos: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Mean probability and label of each video ([V], [V]); `videos` numbers them from 0 ([n]).

    The sum runs in the order of the probabilities, so that rounding, and with it a tie between
    two videos, does not depend on the order of the rows.
    """
    order = np.argsort(probability, kind="stable")
    total = np.bincount(videos[order], weights=probability[order])
    label = (np.bincount(videos, weights=labels) > 0).astype(np.int64)
    return total / np.bincount(videos), label


def concatenate(tables: Sequence[Scores]) -> Scores:
    """Joins tables; an optional column is kept if every table has it."""
    if len(tables) == 1:
        return tables[0]
    joined: dict[str, Any] = {}
    for field in fields(Scores):
        parts = [getattr(table, field.name) for table in tables]
        joined[field.name] = None if any(p is None for p in parts) else np.concatenate(parts)
    return Scores(**joined)


def refuse_repeats(scores: Scores, source: str) -> None:
    """Raises UserError when a frame (set, split, id) is scored twice; rows without id pass."""
    rows = np.flatnonzero(scores.id != "")
    keys = list(zip(*(getattr(scores, k)[rows] for k in ("set_name", "split", "id")), strict=True))
    seen: set[tuple[str, ...]] = set()
    for key in keys:
        if key in seen:
            raise UserError(
                f"{source}: frame {key[2]!r} of set {key[0]!r}, split {key[1]!r} is scored twice; "
                "give different detectors, and different sets, different names (NAME=...)"
            )
        seen.add(key)


def refuse_shared_videos(tables: Sequence[Scores], source: str) -> None:
    """Raises UserError when two tables of one detector have rows of one video, and no ids.

    With ids, `refuse_repeats` compares frames; without ids they could be the same frames.
    """
    names = ("set_name", "split", "dataset", "method", "video", "label")
    seen: set[tuple[Any, ...]] = set()
    for table in tables:
        rows = np.flatnonzero((table.id == "") & (table.video != ""))
        videos = set(zip(*(getattr(table, name)[rows].tolist() for name in names), strict=True))
        if shared := videos & seen:
            video = dict(zip(names, min(shared), strict=True))
            raise UserError(
                f"{source}: two files have scores of video {video['video']!r} of "
                f"{video['set_name']}, {video['method']}; give different detectors different names, "
                "different sets another `dataset` or `set`, or the frames an `id`"
            )
        seen |= videos


def to_csv(tables: Mapping[str, Scores]) -> str:
    """The text of `scores.csv`: COLUMNS, `set`, `detector`, then the optional columns that occur.

    Floats are written so that they read back to the same float64.
    """
    optional = [
        name
        for name in ("logit", "regions", "caption", "reasons")
        if any(getattr(table, name) is not None for table in tables.values())
    ]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*COLUMNS, "set", "detector", *optional])
    for detector, table in tables.items():
        columns: list[Iterable[Any]] = [getattr(table, name).tolist() for name in COLUMNS]
        columns.append(table.set_name.tolist())
        columns.append([detector] * len(table))
        for name in optional:
            values = getattr(table, name)
            if values is None:
                columns.append([""] * len(table))
            elif name == "regions":
                columns.append([_region_text(flags) for flags in values])
            else:
                columns.append(values.tolist())
        writer.writerows([for_spreadsheets(v) for v in row] for row in zip(*columns, strict=True))
    return out.getvalue()


def for_spreadsheets(value: Any) -> Any:
    """A cell of a CSV; text that a spreadsheet would take for a formula gets an apostrophe before it."""
    return f"'{value}" if isinstance(value, str) and _FORMULA.match(value) else value


def from_csv(text: str, source: str) -> dict[str, Scores]:
    """Reads a scores table; returns the scores by detector ('' where the file names none).

    Args:
      text: the CSV with a header line: REQUIRED_COLUMNS, and any of COLUMNS and OPTIONAL_COLUMNS.
        Other columns are ignored. `regions` are names joined by ';', empty for none.
      source: the file's name, for the messages.

    Raises:
      UserError: a missing column, no rows, or a wrong value (with its line).
    """
    try:
        reader = csv.DictReader(io.StringIO(text.removeprefix("\ufeff")))
        lines = [(reader.line_num, row) for row in reader]
    except csv.Error as error:
        raise UserError(f"{source} is not a CSV ({error})") from error
    header = list(reader.fieldnames or ())
    missing = [name for name in REQUIRED_COLUMNS if name not in header]
    if missing:
        raise UserError(
            f"{source}: lacks the column(s) {', '.join(missing)}; required are "
            f"{', '.join(REQUIRED_COLUMNS)}, and it has {', '.join(header)[:300] or 'none'}"
        )
    rows: dict[str, list[dict[str, Any]]] = {}
    row: dict[str, Any]
    for number, row in lines:
        where = f"{source}, line {number}"
        if None in row or None in row.values():
            raise UserError(f"{where}: the number of fields differs from the header")
        for name in _NAMES & row.keys():
            row[name] = _ESCAPED.sub(r"\1", row[name])
        row["label"] = _label(row["label"], where)
        row["probability"] = _number(row["probability"], where, "probability", 0.0, 1.0)
        if row.get("logit"):
            logit = row["logit"] = _number(row["logit"], where, "logit", -math.inf, math.inf)
            gap = 1 / (1 + math.exp(-max(logit, -700.0))) - row["probability"]
            if abs(gap) > _MAX_GAP:
                raise UserError(
                    f"{where}: the logit {logit:g} and the probability {row['probability']:g} contradict each "
                    "other; the logit is the log-odds of the probability"
                )
        if row.get("regions"):
            row["regions"] = _region_flags(row["regions"], where)
        rows.setdefault(row.get("detector", ""), []).append(row)
    if not rows:
        raise UserError(f"{source}: has no scores")
    return {detector: _table(part, header) for detector, part in rows.items()}


def _table(rows: Sequence[Mapping[str, Any]], header: Sequence[str]) -> Scores:
    columns: dict[str, Any] = {name: [row.get(name, "") for row in rows] for name in COLUMNS}
    if "set" in header:
        columns["set_name"] = [row["set"] or row["dataset"] for row in rows]
    if "logit" in header and all(row["logit"] != "" for row in rows):
        columns["logit"] = [row["logit"] for row in rows]
    if "regions" in header:
        none = [False] * len(REGIONS)
        columns["regions"] = [row["regions"] or none for row in rows]
    for name in ("caption", "reasons"):
        if name in header:
            columns[name] = [row[name] for row in rows]
    return Scores(**columns)


def _label(text: str, where: str) -> int:
    if text.strip() not in ("0", "1"):
        raise UserError(f"{where}: the label is {text!r}; write 0 for real and 1 for fake")
    return int(text)


def _number(text: str, where: str, name: str, low: float, high: float) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and low <= value <= high):
        expected = "a finite number" if high == math.inf else f"a number in [{low:g}, {high:g}]"
        raise UserError(f"{where}: the {name} is {text!r}, not {expected}")
    return value


def _region_text(flags: np.ndarray) -> str:
    return ";".join(name for name, flag in zip(REGIONS, flags, strict=True) if flag)


def _region_flags(text: str, where: str) -> list[bool]:
    names = [name.strip() for name in text.split(";") if name.strip()]
    for name in names:
        if name not in REGIONS:
            raise UserError(f"{where}: {name!r} is not a region; use {', '.join(REGIONS)}")
    return [name in names for name in REGIONS]
