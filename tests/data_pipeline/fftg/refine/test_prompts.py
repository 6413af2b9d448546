"""The prompts: texts, image, content key and token estimate of a question."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("openai", reason="the extra `annotate` is not installed")

from data_pipeline.fftg.refine import online, prompts
from jax_vlffd.errors import UserError
from jax_vlffd.vocabulary import FAKE, REGIONS, VERDICTS
from tests.support.faulty_server import FaultyServer
from tests.support.refining import load, pairs, run, settings

pytestmark = pytest.mark.usefixtures("openai_key")


def test_the_key_follows_everything_that_decides_the_reply() -> None:
    line = pairs(1)[0]
    real, fake = load(line)
    texts = prompts.load_prompts("v1")

    def key(line=line, real=real, fake=fake, **changes: Any) -> str:
        return prompts.content_key(line, real, fake, texts, settings(None, **changes))

    changed = real.copy()
    changed[3, 4, 1] ^= 1
    other = pairs(2)[1] | {"real": line["real"], "fake": line["fake"]}
    keys = [
        key(), key(real=changed), key(fake=changed), key(line=other), key(model="another"),
        key(temperature=0.5), key(max_tokens=99), key(image_side=128), key(detail="low"),
        key(mask_settings={"forged": 0.1}),
    ]  # fmt: skip
    assert len(set(keys)) == len(keys)
    # The endpoint, the rate limits and the id of the line do not decide it.
    assert key(concurrency=1, rpm=3, base_url="http://x/v1", price_in=0, price_out=0) == key()
    assert key(line=line | {"id": "z", "raw_caption": "other words"}) == key()


def test_a_request_has_prompts_image_and_schema(tmp_path: Path) -> None:
    line = pairs(1)[0]
    with FaultyServer() as server:
        run(server, tmp_path / "out.jsonl", [line], temperature=0.3)
    body = server.calls[0].body
    forged = [name for name in REGIONS if line["regions"][name]["forged"]]
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("test-model", 0.3, 400)
    schema = body["response_format"]["json_schema"]
    assert schema["strict"] is True
    assert set(schema["schema"]["required"]) == {"verdict", "regions", "caption"}
    system, user = body["messages"]
    assert "forensic" in system["content"]
    text = server.calls[0].text
    assert "side by side" in text
    assert "score 1.5, threshold 1, margin 0.5" in text
    assert VERDICTS[FAKE] in text
    for name in REGIONS:
        assert (f"{name}: changed" in text) == (name in forged)
    assert "$" not in text
    assert "secret-place" not in json.dumps(body)  # no file names: nothing to inject by
    (picture,) = (part for part in user["content"] if part["type"] == "image_url")
    assert picture["image_url"]["url"].startswith("data:image/jpeg;base64,/9j/")


def test_the_composite_shows_real_left_and_fake_right() -> None:
    import cv2

    red = np.zeros((40, 30, 3), np.uint8)
    red[..., 0] = 255
    blue = red[:20, :15, ::-1].copy()  # of another size
    data = prompts.composite(red, blue, 512)
    picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    assert picture.shape == (40, 68, 3)
    assert np.abs(picture[:, :26].astype(int) - (255, 0, 0)).max() < 40
    assert np.abs(picture[:, -26:].astype(int) - (0, 0, 255)).max() < 40
    small = prompts.composite(red, blue, 20)
    assert cv2.imdecode(np.frombuffer(small, np.uint8), cv2.IMREAD_COLOR).shape == (20, 38, 3)


def test_estimate_is_near_the_bill(tmp_path: Path) -> None:
    """For a model of the usual picture tokens: 1 tile of 170, 85 of base, and the text."""
    line = pairs(1)[0]
    text = prompts.messages(line, b"", prompts.load_prompts("v1"), "high")
    tokens = prompts.estimate_tokens(text, (256, 256), "gpt-4o")
    assert 600 < tokens < 1300
    assert prompts.estimate_tokens(text, (256, 256), "gpt-4o-mini") > 8000


def test_unknown_prompts_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--prompt_version=v0: the versions are v1"):
        online.refine_annotations(
            pairs(1), tmp_path / "out.jsonl", settings(None, prompt_version="v0"), load
        )
