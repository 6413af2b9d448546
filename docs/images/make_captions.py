"""Makes `captions.png`: pairs with the mask, what was planted, what was annotated, and the caption.

    python -m launch.forge --out=drawn --identities=20 --frames=2 --fakes=3 --size=299 --seed=11
    python -m launch.annotate --pairs=drawn/pairs.csv --out=drawn/change.jsonl --masks=drawn/change
    python docs/images/make_captions.py drawn docs/images/captions.png ID...

Each ID is the name of a fake without its ending; `=` and a note may follow. Without an ID, it prints what was
planted and what was annotated, to choose from.
"""

from __future__ import annotations

import json
import sys
import textwrap
from pathlib import Path

import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont

SIDE, MARGIN, WIDTH, LINE, LETTERS = 132, 10, 1160, 18, 92
#: How much brighter than it is a mask is shown.
BRIGHTER = 3
DARK, GRAY, RED = "#1c1c1c", "#6a6a6a", "#b3261e"


def lines_by_name(path: Path) -> dict[str, dict]:
    """The annotation lines of a file by the names of the fakes."""
    lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    return {Path(line["fake"]).stem: line for line in lines if line["fake"]}


def forged(line: dict) -> str:
    """The forged regions of a line, with their types."""
    return "; ".join(
        f"{name}: {', '.join(region['types']) or 'no type'}"
        for name, region in line["regions"].items()
        if region["forged"]
    )


def picture(path: Path) -> PIL.Image.Image:
    """A picture in the size of the page."""
    with PIL.Image.open(path) as image:
        return image.convert("RGB").resize((SIDE, SIDE), PIL.Image.Resampling.LANCZOS)


def cell(folder: Path, truth: dict, line: dict, note: str) -> PIL.Image.Image:
    """One pair: real, fake and mask, and the words beside them."""
    page = PIL.Image.new("RGB", (WIDTH, SIDE + MARGIN), "white")
    mask = picture(folder / line["mask"]).point(lambda level: min(255, BRIGHTER * level))
    shown = picture(folder / line["real"]), picture(folder / line["fake"]), mask
    for place, image in enumerate(shown):
        page.paste(image, (MARGIN + place * (SIDE + MARGIN), MARGIN))
    draw = PIL.ImageDraw.Draw(page)
    left, top = 4 * MARGIN + 3 * SIDE, MARGIN
    words = [(f"planted  {forged(truth)}", GRAY), (f"annotated  {forged(line)}", DARK)]
    words += [(line["raw_caption"], DARK)] + [(note, RED)] * bool(note)
    for text, color in words:
        for part in textwrap.wrap(text, LETTERS):
            draw.text((left, top), part, color, PIL.ImageFont.load_default(14))
            top += LINE
        top += 3
    return page


def main(source: str, out: str = "", *names: str) -> None:
    """Puts the rows of the named pairs under each other, or lists all."""
    folder = Path(source)
    truth = lines_by_name(folder / "annotations.jsonl") | lines_by_name(folder / "unseen.jsonl")
    lines = lines_by_name(folder / "change.jsonl")
    if not names:
        for name, line in lines.items():
            print(f"{name}\n  planted   {forged(truth[name])}\n  annotated {forged(line)}")
        return
    chosen = [name.partition("=")[::2] for name in names]
    cells = [cell(folder, truth[name], lines[name], note) for name, note in chosen]
    page = PIL.Image.new("RGB", (WIDTH, len(cells) * (SIDE + MARGIN) + MARGIN), "white")
    for place, part in enumerate(cells):
        page.paste(part, (0, place * (SIDE + MARGIN)))
    page.quantize(128).save(out, optimize=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
