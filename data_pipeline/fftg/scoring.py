"""Scores annotations against ground-truth regions, by their flags and by the words of their captions.

Precision, recall and F1 as the paper reports them (section 4): a region counts as named by exact
terms or synonyms, and the mean over images averages each metric separately, so that the mean F1 is
not the harmonic mean of the other two.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jax_vlffd.errors import UserError
from jax_vlffd.files import read_text
from jax_vlffd.vocabulary import REGIONS, regions_named

Line = Mapping[str, Any]
Regions = frozenset[str]


@dataclass(frozen=True)
class Truth:
    """The ground truth of a table.

    Attributes:
      regions: the regions that the table has columns for.
      forged: the forged regions of a pair, by the absolute path of its fake and by its id.
      rows: number of rows.
    """

    regions: tuple[str, ...]
    forged: Mapping[str, Regions]
    rows: int


def read_truth(path: Path) -> Truth:
    """Reads the columns `left_eye,right_eye` or `eyes`, and `nose`, `mouth`, `face` (0 or 1).

    Rows are identified by `fake` (a path relative to the table) or by `id`.

    Raises:
      UserError: the file cannot be read, lacks columns or has another value.
    """
    try:
        rows = list(csv.DictReader(io.StringIO(read_text(path), newline=""), restval=""))
    except csv.Error as error:
        raise UserError(f"{path}: cannot be read as CSV ({error})") from error
    names = set(rows[0]) if rows else set()
    columns: dict[str, tuple[str, ...]] = {name: (name,) for name in REGIONS if name in names}
    if "eyes" not in columns and {"left_eye", "right_eye"} <= names:
        columns["eyes"] = ("left_eye", "right_eye")
    if not columns or not names & {"fake", "id"}:
        raise UserError(
            f"{path}: needs rows with `fake` or `id`, and columns such as eyes, nose, mouth, face"
        )
    forged: dict[str, Regions] = {}
    for number, row in enumerate(rows, start=2):
        for column in (column for group in columns.values() for column in group):
            if row[column] not in ("0", "1"):
                raise UserError(f"{path}, row {number}: {column} is '{row[column]}', not 0 or 1")
        regions = frozenset(
            name for name, group in columns.items() if any(row[column] == "1" for column in group)
        )
        if row.get("id"):
            forged[row["id"]] = regions
        if row.get("fake"):
            forged[str((path.parent / row["fake"]).resolve())] = regions
    return Truth(tuple(name for name in REGIONS if name in columns), forged, len(rows))


def flagged(line: Line) -> Regions | None:
    """The regions that a line flags as forged; None for an annotation without flags.

    Raises:
      UserError: `regions` has another form than {name: {"forged": ...}}.
    """
    regions = line.get("regions")
    if not regions:
        return None
    try:
        return frozenset(name for name, region in regions.items() if region["forged"])
    except (AttributeError, KeyError, TypeError) as error:
        raise UserError(
            f"annotation '{line.get('id') or line.get('fake')}': `regions` is not "
            '{name: {"forged": true or false}}; leave it out to score the words alone'
        ) from error


def score(lines: Iterable[Line], truth: Truth, folder: Path) -> dict[str, Any]:
    """Scores annotations against the ground truth.

    A pair that could not be annotated counts as one without forged regions.

    Args:
      lines: annotations; those without a row in the truth are counted and skipped.
      truth: the ground truth.
      folder: the folder that paths in the lines are relative to.

    Returns:
      `images`, `unknown` (lines without truth), `missing` (rows without a line), `refused`, and
      under `flags` and `words` the metrics of `figures`; `flags` is None where a line has none.

    Raises:
      UserError: no line has a row in the truth.
    """
    pairs: list[tuple[Regions, Regions | None, Regions]] = []
    unknown = refused = 0
    scored = frozenset(truth.regions)
    for line in lines:
        known = truth.forged.get(str((folder / str(line.get("fake"))).resolve()))
        known = truth.forged.get(str(line.get("id"))) if known is None else known
        if known is None:
            unknown += 1
            continue
        flags = flagged(line)
        refused += not line.get("caption")
        named = regions_named(str(line.get("caption") or ""))
        pairs.append((known, None if flags is None else flags & scored, named & scored))
    if not pairs:
        raise UserError("no annotation belongs to a row of the truth: compare their `fake` or `id`")
    by_flags = [(known, flags) for known, flags, _ in pairs if flags is not None]
    return {
        "images": len(pairs),
        "unknown": unknown,
        "missing": truth.rows - len(pairs),
        "refused": refused,
        "flags": figures(by_flags, truth.regions) if len(by_flags) == len(pairs) else None,
        "words": figures([(known, named) for known, _, named in pairs], truth.regions),
    }


def figures(
    pairs: list[tuple[Regions, Regions]], regions: tuple[str, ...]
) -> dict[str, dict[str, Any] | float]:
    """Precision, recall and F1 of pairs (true regions, predicted regions).

    Returns:
      A dict for each region and for `micro` (all decisions together) with `precision`, `recall`,
      `f1`, `tp`, `fp` and `fn`; for `mean` (over images) with the first three; and `exact`, the
      fraction of images with every region right.
    """
    known, predicted = (
        np.array([[name in side for name in regions] for side in sides])
        for sides in zip(*pairs, strict=True)
    )
    counts = np.stack(
        [known & predicted, ~known & predicted, known & ~predicted]
    )  # [3, images, regions]
    result: dict[str, dict[str, Any] | float] = {
        name: _with_counts(*counts[:, :, index].sum(1).tolist())
        for index, name in enumerate(regions)
    }
    result["micro"] = _with_counts(*counts.sum((1, 2)).tolist())
    images = [_ratios(*image) for image in counts.sum(2).T.tolist()]
    names = ("precision", "recall", "f1")
    result["mean"] = dict(zip(names, np.mean(images, axis=0).tolist(), strict=True))
    result["exact"] = float((known == predicted).all(axis=1).mean())
    return result


def words_match(lines: Iterable[Line]) -> dict[str, Any]:
    """Checks that captions name exactly the flagged regions, over all wordings.

    Returns:
      `captions` (their number), `match` (the fraction that does), and `ids` of the first ten lines with a
      caption that does not.
    """
    count = wrong = 0
    ids: list[str] = []
    for line in lines:
        flags = flagged(line)
        if flags is None or not line.get("caption"):
            continue
        texts = {line["caption"], line.get("raw_caption") or line["caption"]}
        texts.update(line.get("captions") or ())
        mismatches = sum(regions_named(text) != flags for text in texts)
        count, wrong = count + len(texts), wrong + mismatches
        if mismatches and len(ids) < 10:
            ids.append(str(line.get("id")))
    return {"captions": count, "match": (count - wrong) / count if count else None, "ids": ids}


def _ratios(tp: int, fp: int, fn: int) -> tuple[float, float, float]:
    """Precision, recall and F1; all 1 without true and predicted regions."""
    if tp + fp + fn == 0:
        return 1.0, 1.0, 1.0
    precision = tp / (tp + fp) if tp + fp else 0.0
    recall = tp / (tp + fn) if tp + fn else 0.0
    return precision, recall, 2 * tp / (2 * tp + fp + fn)


def _with_counts(tp: int, fp: int, fn: int) -> dict[str, Any]:
    precision, recall, f1 = _ratios(tp, fp, fn)
    return {"precision": precision, "recall": recall, "f1": f1, "tp": tp, "fp": fp, "fn": fn}
