"""Makes `verdict.png` from what `launch.predict` wrote: each face, the classifier's map, and the words.

    python -m launch.predict --checkpoint=runs/demo/three_branches --crops --out=answers.jsonl \
        --overlay=maps runs/demo/drawn/frames
    python docs/images/make_verdict.py answers.jsonl docs/images/verdict.png NAME...

Each NAME is a file name of one of the answers, `=` and what is known of the face.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont

SIDE, MARGIN, WIDTH, LINE = 200, 12, 980, 22
DARK, GRAY = "#1c1c1c", "#6a6a6a"
COLORS = {"fake": "#b3261e", "real": "#1b6e3c", "uncertain": "#8a6100"}
#: Where an overlay of `launch.predict` has the face and the classifier's map.
FACE, MAP = (8, 8, 264, 264), (272, 8, 528, 264)


def row(answer: dict, known: str) -> PIL.Image.Image:
    """One face: picture, map, and verdict with reasons in words."""
    found = PIL.Image.new("RGB", (WIDTH, SIDE + MARGIN), "white")
    with PIL.Image.open(answer["overlay"]) as overlay:
        for place, box in enumerate((FACE, MAP)):
            part = (
                overlay.convert("RGB").crop(box).resize((SIDE, SIDE), PIL.Image.Resampling.LANCZOS)
            )
            found.paste(part, (MARGIN + place * (SIDE + MARGIN), MARGIN))
    draw = PIL.ImageDraw.Draw(found)
    left, top = 3 * MARGIN + 2 * SIDE, MARGIN
    verdict = f"{answer['verdict']}, probability of fake {answer['probability']:.2f}"
    draw.text((left, top), verdict, COLORS[answer["verdict"]], PIL.ImageFont.load_default(22))
    top += 34
    for reason in answer["reasons"][:5]:
        against = "  (contradicts the verdict)" if reason["contradiction"] else ""
        text = f"{reason['score']:.2f}  {reason['text']}{against}"
        draw.text((left, top), text, DARK, PIL.ImageFont.load_default(16))
        top += LINE
    draw.text((left, MARGIN + SIDE - LINE), known, GRAY, PIL.ImageFont.load_default(15))
    return found


def main(answers: str, out: str, *names: str) -> None:
    """Puts the rows of the named answers under each other."""
    lines = [json.loads(line) for line in Path(answers).read_text("utf-8").splitlines()]
    by_name = {Path(line["path"]).name: line for line in lines}
    rows = [row(by_name[name], known) for name, known in (n.split("=", 1) for n in names)]
    page = PIL.Image.new("RGB", (WIDTH, len(rows) * (SIDE + MARGIN) + MARGIN), "white")
    for place, picture in enumerate(rows):
        page.paste(picture, (0, place * (SIDE + MARGIN)))
    page.quantize(128).save(out, optimize=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
