"""How well captions of known meaning are judged: `python -m tests.support.known_sentences development`.

`sentences.jsonl` has captions, each with the annotation that it is held against, honest or violating it, and
the regions that it calls forged. All were written before the rules were made that they helped to make:

- `development`: 205 captions, every second one of a kind of the first 400.
- `development_2`: the other 195. They were held out, scored once, and their faults were then read to mend the
  rules by kinds: what is scored on them since is seen.
- `development_3` and `development_4`: 922 more, written before the rules were mended by them.

`sentences_held_out.jsonl` has 200 by another hand, most of them longer (`held_out`). It was added unread and
scored once; its faults were read afterwards, so what is scored on it since is seen.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any, Final

from data_pipeline.fftg.refine.grounding import check
from data_pipeline.fftg.refine.reply_schema import Reply
from jax_vlffd.vocabulary import REGIONS, VERDICTS, regions_named

FOLDER: Final = Path(__file__).resolve().parents[1] / "data_pipeline/fftg/refine"
FILES: Final = ("sentences.jsonl", "sentences_held_out.jsonl")

#: Kinds whose `named` lists the regions spoken of, also those called sound, which is not what is scored.
SPOKEN_OF: Final = ("called_clean", "denial")


def read(split: str) -> list[dict[str, Any]]:
    """The captions of a split."""
    lines = [line for name in FILES for line in (FOLDER / name).read_text("utf-8").splitlines()]
    rows = [json.loads(line) for line in lines]
    return [row for row in rows if row["split"] == split]


def is_refused(row: dict[str, Any]) -> bool:
    """Whether the check finds a violation in the words of a caption."""
    regions = {
        name: {"forged": name in row["regions"], "types": row["regions"].get(name, [])}
        for name in REGIONS
    }
    reply = Reply(verdict=VERDICTS[row["label"]], caption=row["caption"], regions=[])
    return bool(check(reply, {"label": row["label"], "regions": regions}))


def figures(split: str) -> dict[str, Counter[str]]:
    """By kind of caption: how many there are, and how many are judged wrongly.

    Returns:
      `honest` and `violating` (captions), `refused` (of the honest), `passed` (of the violating), `misread` (of
      both, where the scorer takes other regions to be called forged); "all" counts every kind.
    """
    names = ("honest", "violating", "refused", "passed", "misread")
    result: dict[str, Counter[str]] = {name: Counter() for name in names}
    for row in read(split):
        refused = is_refused(row)
        facts = {
            "honest": row["honest"], "violating": not row["honest"],
            "refused": row["honest"] and refused, "passed": not row["honest"] and not refused,
            "misread": row["kind"] not in SPOKEN_OF
            and set(regions_named(row["caption"])) != set(row["named"]),
        }  # fmt: skip
        for name, fact in facts.items():
            result[name].update({"all": int(fact), row["kind"]: int(fact)})
    return result


if __name__ == "__main__":
    for name, counts in figures(sys.argv[1]).items():
        print(f"{name:10}", ", ".join(f"{kind} {n}" for kind, n in counts.items() if n))
