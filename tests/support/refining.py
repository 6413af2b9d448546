"""Raw annotation lines, and runs of their refinement, for the tests."""

from __future__ import annotations

import json
import random
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.captions import caption, caption_key
from data_pipeline.fftg.refine import online
from data_pipeline.fftg.refine.settings import RefineSettings, RefineSummary
from jax_vlffd.vocabulary import FAKE, REAL, REGIONS, TYPES
from tests.support.faulty_server import (
    TOKENS_IN,
    TOKENS_OUT,
    Call,
    FaultyServer,
    completion,
    written,
)

REPOSITORY = Path(__file__).resolve().parents[2]
SECRET = "sk-Zq7XvKw9PbLm3RtY"
PRICES = {"price_in": 1.0, "price_out": 10.0}
COST = (TOKENS_IN * 1.0 + TOKENS_OUT * 10.0) / 1e6  # of one reply
#: Behaviors of the server that pass: the same question is asked again.
PASSING = [
    "rate_limit", "busy", "server_error", "overloaded", "cut", "cut_in_the_middle", "not_json",
    "truncated_json", "no_choices",
]  # fmt: skip
#: Behaviors that give a bad reply, and what is found wrong with it.
CONTENT = {
    "wrong_verdict": "wrong_verdict",
    "says_real": "wrong_verdict",
    "unforged_region": "region_not_forged",
    "injection": "unsafe_text",
    "markup": "unsafe_text",
    "prose": "bad_format",
    "wrong_form": "bad_format",
    "cut_off": "bad_format",
    "empty": "bad_format",
}


def load(line: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """A pair of pictures that follows from the names."""
    seeds = [zlib.crc32(str(line[name]).encode()) for name in ("real", "fake")]
    real, fake = (
        np.random.default_rng(seed).integers(0, 256, (24, 20, 3), np.uint8) for seed in seeds
    )
    return real, fake


def pairs(count: int, start: int = 0) -> list[dict[str, Any]]:
    """Raw annotation lines of fakes, each with one to four forged regions."""
    lines = []
    for number in range(start, start + count):
        rng = random.Random(number)
        forged = {
            name: rng.sample(TYPES, rng.randint(1, 2))
            for name in rng.sample(REGIONS, rng.randint(1, 3))
        }
        evidence = {"score": 1.5, "threshold": 1.0, "margin": 0.5}
        regions = {
            name: {
                "forged": name in forged,
                "score": 0.1,
                "types": forged.get(name, []),
                "evidence": {"mask": evidence, **{kind: evidence for kind in TYPES}},
            }
            for name in REGIONS
        }
        text = caption(FAKE, forged, f"p{number}")
        lines.append(
            {
                "id": f"p{number}",
                "real": f"secret-place/{number}.png",
                "fake": f"secret-place/{number}f.png",
                "label": FAKE,
                "regions": regions,
                "raw_caption": text,
                "caption": text,
                "source": "raw",
                "error": None,
                "caption_key": caption_key(FAKE, forged),
                "real_captions": [caption(REAL, {}, f"p{number}")],
            }
        )
    return lines


def settings(server: FaultyServer | None = None, **changes: Any) -> RefineSettings:
    values: dict[str, Any] = {
        "model": "test-model",
        "base_url": server.url if server else "http://127.0.0.1:9/v1",
        "timeout": 10.0,
        "backoff": 0.01,
        "concurrency": 4,
        **PRICES,
    }
    return RefineSettings(**(values | changes))


def run(
    server: FaultyServer, out: Path, lines: list[dict[str, Any]], **changes: Any
) -> RefineSummary:
    return online.refine_annotations(lines, out, settings(server, **changes), load)


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def answer_batch(files: list[Path], path: Path, does: str = "good", skip: int = -1) -> None:
    """Answers exported requests as OpenAI's Batch API and `vllm run-batch` do."""
    lines = []
    for number, request in enumerate(r for file in files for r in read(file)):
        tag = request["custom_id"]
        call = Call(number, tag, int(tag[-1]), 0, request["body"])
        text, finish = written(does, call)
        response = {"status_code": 200, "request_id": "r", "body": completion(text, finish)}
        error = None
        if number == skip:
            response = {"status_code": 500, "request_id": "r", "body": {"error": {"message": "x"}}}
        lines.append({"id": f"b{number}", "custom_id": tag, "response": response, "error": error})
    random.Random(0).shuffle(lines)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
