"""Tables of drawn pairs, and their annotation by the command, for the tests."""

from __future__ import annotations

import csv
import subprocess
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from data_pipeline.faces.regions import region_maps
from data_pipeline.synthetic import forgeries
from data_pipeline.synthetic.anatomy import draw_identity
from data_pipeline.synthetic.faces import draw_face
from jax_vlffd.jsonl import read_lines
from jax_vlffd.vocabulary import REGIONS
from tests.support import tiny

REPOSITORY = Path(__file__).resolve().parents[2]
SIZE = 160


def run(module: str, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    done = tiny.command(module, *arguments)
    assert not check or done.returncode == 0, done.stderr
    return done


def write(path: Path, image: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    code = cv2.COLOR_RGB2BGR if image.ndim == 3 and image.shape[2] == 3 else None
    assert cv2.imwrite(str(path), image if code is None else cv2.cvtColor(image, code))
    return path


def draw(number: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(number)
    return draw_face(draw_identity(rng), rng, SIZE)


def make_pairs(folder: Path, count: int, extra: tuple[str, ...] = ()) -> Path:
    """A table of drawn pairs with landmarks beside them; pair i has region i of 4 forged."""
    rows = []
    for number in range(count):
        image, points = draw(number)
        region = REGIONS[number % 4]
        chosen = region_maps(points, SIZE, SIZE)[region]
        fake = forgeries.plant(image, chosen, "color", 1.0, np.random.default_rng(number))
        write(folder / "real" / f"{number}.png", image)
        write(folder / "fake" / f"{number}.png", fake)
        np.save(folder / "real" / f"{number}.npy", points)
        rows.append({"real": f"real/{number}.png", "fake": f"fake/{number}.png", "method": region})
    return write_table(folder / "pairs.csv", rows)


def write_table(path: Path, rows: list[dict[str, Any]]) -> Path:
    names = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, names, restval="")
        writer.writeheader()
        writer.writerows(rows)
    return path


def annotate_rows(table: Path, out: Path, *arguments: str, check: bool = True):
    done = run(
        "launch.annotate",
        f"--pairs={table}",
        f"--out={out}",
        "--workers=1",
        *arguments,
        check=check,
    )
    lines = {line["id"]: line for line in read_lines(out)} if out.exists() else {}
    return done, lines
