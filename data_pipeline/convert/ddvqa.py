"""DD-VQA: what people answered about frames of FaceForensics++ (Zhang et al., ECCV 2024, arXiv 2402.00126).

    {"METHOD_VIDEO": {number: {"question": text, "answer": [text, ...]}, ...}, ...}

METHOD is a digit, see `_METHODS`; VIDEO is `135_880` of a fake, `044` of a real. The first question asks for
the whole image, the others for skin, brows, eyes, nose and mouth. The answers to the first one, one a person,
are the captions: they give the reasons for the verdict. No entry names a frame or a file; others who read this
set have its pictures as METHOD_VIDEO.jpg.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from data_pipeline.convert.lines import CaptionLines
from data_pipeline.core.frame_numbers import IMAGE_SUFFIXES
from data_pipeline.core.tables import read_json
from data_pipeline.fftg.annotator import AnnotationTask
from data_pipeline.fftg.pairs import read_pairs
from jax_vlffd.errors import UserError
from jax_vlffd.vocabulary import FAKE, REAL

#: The digits that the set's README explains.
_METHODS: Final = {
    "0": "Deepfakes", "1": "Face2Face", "2": "FaceShifter", "3": "FaceSwap", "5": "real",
    "6": "NeuralTextures",
}  # fmt: skip
#: Columns of a table that a line takes over.
_COLUMNS: Final = ("dataset", "frame", "real_frame", "split")
_KEY: Final = re.compile(r"(\d)_(\d{1,9}(?:_\d{1,9})?)")
_WHOLE_IMAGE: Final = re.compile(r"\bimage\b", re.IGNORECASE)


def read_ddvqa(file: Path, out: Path, root: Path | None, pairs: Path | None) -> CaptionLines:
    """Reads the captions of one JSON for the pictures of a folder, or of the videos of a table.

    Args:
      file: the JSON.
      out: the file of lines to be written.
      root: the folder of the pictures METHOD_VIDEO.jpg; or None.
      pairs: the CSV of `launch.prepare`, with `method` and `video`: as the set names no frame, each frame of a
        video has its captions. Or None.

    Raises:
      UserError: the file has another schema, or the table cannot be read.
    """
    lines = CaptionLines(file, out, "ddvqa")
    tasks = _by_video(read_pairs(pairs)) if pairs else {}
    for key, method, video, captions in _entries(file, lines):
        label = REAL if method == "real" else FAKE
        columns = {"dataset": "FaceForensics++", "method": method, "video": video}
        picture = _picture(root, key) if root else None
        if picture is not None:
            lines.add(f"entry '{key}'", picture, label, captions, {"id": key, **columns})
        for task in tasks.get((method, video), ()):
            if label == REAL:
                assert task.real is not None
                id_ = task.id if task.fake is None else f"{task.id}/real"
                lines.add(f"entry '{key}'", task.real, label, captions, {"id": id_, **columns})
            else:
                assert task.fake is not None
                known = {n: task.columns[n] for n in _COLUMNS if n in task.columns}
                columns = {**columns, **known, "id": task.id}
                lines.add(f"entry '{key}'", task.fake, label, captions, columns, task.real)
        if picture is None and (method, video) not in tasks:
            lines.left_out["picture not there"] += 1
    return lines


def _entries(file: Path, lines: CaptionLines) -> Iterator[tuple[str, str, str, list[str]]]:
    content = read_json(file)
    if not isinstance(content, dict):
        raise UserError(
            f"{file}: holds a {type(content).__name__}, not an object of entries METHOD_VIDEO, as "
            "DD-VQA's Deepfakes.json has"
        )
    for key, questions in content.items():
        where = f"{file}, entry {key!r:.100}"
        match = _KEY.fullmatch(key)
        if match is None:
            raise UserError(
                f"{where}: is not METHOD_VIDEO, such as 0_135_880, so this is not a file of DD-VQA's answers"
            )
        if not isinstance(questions, dict):
            raise UserError(f"{where}: is a {type(questions).__name__}, not an object of questions")
        answers = _answers(questions, where)
        if match[1] not in _METHODS:
            lines.left_out[f"method {match[1]}, which the set does not explain"] += 1
        else:
            yield key, _METHODS[match[1]], match[2], answers


def _answers(questions: dict[str, Any], where: str) -> list[str]:
    """The answers to the question about the whole image."""
    whole: list[str] = []
    for number, entry in questions.items():
        place = f"{where}, question {number!r:.40}"
        if not isinstance(entry, dict):
            raise UserError(f"{place}: is a {type(entry).__name__}, not an object")
        for field in ("question", "answer"):
            if field not in entry:
                raise UserError(f"{place}: has no field '{field}'")
        question, answer = entry["question"], entry["answer"]
        texts = answer if isinstance(answer, list) else [answer]
        if not isinstance(question, str) or not all(isinstance(text, str) for text in texts):
            raise UserError(f"{place}: its question and answers are not text")
        if _WHOLE_IMAGE.search(question):
            whole += [text for text in texts if text.strip()]
    if not whole:
        raise UserError(f"{where}: has no answer to a question about the whole image")
    return whole


def _picture(root: Path, key: str) -> Path | None:
    paths = (root / f"{key}{suffix}" for suffix in IMAGE_SUFFIXES)
    return next((path for path in paths if os.path.isfile(path)), None)


def _by_video(tasks: list[AnnotationTask]) -> dict[tuple[str, str], list[AnnotationTask]]:
    """The rows by method and video; of reals, which fakes share, one row a picture."""
    result: dict[tuple[str, str], list[AnnotationTask]] = {}
    reals: set[Path] = set()
    for task in tasks:
        video = task.columns.get("video", "")
        if task.refused or not video:
            continue
        if task.fake is not None:
            result.setdefault((task.columns.get("method", ""), video), []).append(task)
        if task.real is not None and task.real not in reals:
            reals.add(task.real)
            result.setdefault(("real", video.partition("_")[0]), []).append(task)
    return result
