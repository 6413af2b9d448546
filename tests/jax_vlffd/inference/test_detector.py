"""The detector as a library: what it predicts, how it is opened, and what it refuses."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import cv2
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest

import jax_vlffd
from data_pipeline.core.images import decode_image
from data_pipeline.faces.cropper import FaceCropper
from data_pipeline.faces.detection import Face
from data_pipeline.loading.tokenizer import train_tokenizer
from data_pipeline.packed.reader import PackedSplit
from jax_vlffd.clip.config import Compute
from jax_vlffd.config import LossConfig
from jax_vlffd.errors import UserError
from jax_vlffd.inference import trained
from jax_vlffd.inference.detector import Detector
from jax_vlffd.model import bind, graph_and_shapes, normalize
from jax_vlffd.preprocessing import square_view
from jax_vlffd.vocabulary import REGIONS, TYPES
from launch.experiment import workdir as runs
from tests.support import tiny, tiny_workdir
from tests.support.packed_sets import draw


@pytest.fixture(scope="module")
def detector(workdir: Path) -> Detector:
    return Detector.from_pretrained(workdir, batch_size=4)


class TwoFaces:
    """Finds a large face on the left and a small one on the right of any picture."""

    def detect(self, image: np.ndarray) -> list[Face]:
        points = np.random.default_rng(0).random((68, 2)).astype(np.float32)
        # The five points that crops are made by: eyes, nose, mouth.
        points[[37, 44, 30, 49, 55]] = [
            (0.3, 0.4),
            (0.7, 0.4),
            (0.5, 0.6),
            (0.35, 0.8),
            (0.65, 0.8),
        ]
        height = image.shape[0]
        big = Face((10, 10, 10 + height / 2, 60), points * height / 2 + 10, 1.0)
        small = Face((height, 10, height + 12, 22), points * 12 + [height, 10], 0.5)
        return [big, small]


@pytest.mark.slow
def test_the_detector_answers_as_the_trained_model_does(detector: Detector) -> None:
    crops = [draw(seed, 40 + 3 * seed) for seed in range(6)]
    predictions = detector.predict(crops)
    graph, _ = graph_and_shapes(tiny.model())
    model = bind(graph, {path: jnp.asarray(value) for path, value in tiny.start().items()})
    config = tiny.model()
    views = jnp.stack([square_view(crop, tiny.VISION.image_size) for crop in crops])
    features = model.encode_image(normalize(views, config.image_mean, config.image_std))
    logits = np.asarray(model.classify_image(features.pooled), np.float64)
    expected = logits[:, 1] - logits[:, 0]
    np.testing.assert_allclose([a.logit for a in predictions], expected, rtol=0, atol=1e-5)
    probability = 1 / (1 + np.exp(-expected / 2.0))  # the workdir's temperature
    np.testing.assert_allclose([a.probability for a in predictions], probability, atol=1e-5)
    heads = np.asarray(model.classify_image(features.tokens[:, 1:]))
    margins = (heads[..., 1] - heads[..., 0]).reshape(6, 2, 2)
    np.testing.assert_allclose([a.classifier_map for a in predictions], margins, atol=1e-5)
    explainer = detector.trained.explainer
    embedding = np.asarray(model.embed_image(features.pooled))
    for row, prediction in enumerate(predictions):
        said = explainer.explain(embedding[row], prediction.verdict)
        assert [r.text for r in prediction.reasons] == [r.text for r in said.reasons]
        assert len(prediction.reason_maps) == len(prediction.reasons)
        assert list(prediction.regions) == list(REGIONS)
        assert list(prediction.types["nose"]) == list(TYPES)


def test_a_picture_alone_is_answered_as_in_a_batch(detector: Detector) -> None:
    crops = [draw(seed) for seed in range(5)]
    together = detector.predict(crops)
    for crop, prediction in zip(crops, together, strict=True):
        (alone,) = detector(crop)
        assert alone.probability == pytest.approx(prediction.probability, abs=1e-6)
        assert alone.verdict == prediction.verdict
        assert alone.box is None


def test_every_face_of_a_picture_is_answered(workdir: Path) -> None:
    faces = FaceCropper(TwoFaces(), size=64, smallest=20)
    detector = Detector.from_pretrained(str(workdir), faces=faces)
    picture = draw(3, 200)
    first, second = detector(picture)
    assert first.box == (10, 10, 110, 60)
    (alone,) = Detector(detector.trained)(faces.crops(picture)[0].image)
    assert first.probability == pytest.approx(alone.probability, abs=1e-6)
    assert (second.verdict, second.probability) == ("face_too_small", None)
    assert json.loads(json.dumps(second.as_dict()))["box"] == [200, 10, 212, 22]


def test_a_picture_without_a_face_says_so(workdir: Path) -> None:
    class None_:
        def detect(self, image: np.ndarray) -> list[Face]:
            return []

    (prediction,) = Detector.from_pretrained(workdir, faces=FaceCropper(None_()))(draw(0))
    assert (prediction.verdict, prediction.probability, prediction.reasons) == ("no_face", None, ())


def test_pil_images_of_any_mode_come_upright(detector: Detector) -> None:
    picture = draw(1, 48)
    (expected,) = detector(picture)
    turned = PIL.Image.fromarray(np.rot90(picture, -1).copy())
    exif = turned.getexif()
    exif[0x0112] = 8  # turn left to see it upright
    turned.info["exif"] = exif.tobytes()
    assert detector(turned)[0].logit == pytest.approx(expected.logit, abs=1e-6)
    for mode in ("L", "RGBA", "CMYK", "P", "1"):
        assert detector(PIL.Image.fromarray(picture).convert(mode))[0].verdict


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((8, 8), np.uint8), np.zeros((8, 8, 4), np.uint8), np.zeros((8, 8, 3), np.float32),
        np.zeros((0, 8, 3), np.uint8), "photo.jpg", None,
    ],
)  # fmt: skip
def test_what_is_no_picture_is_refused(detector: Detector, image: object) -> None:
    with pytest.raises(UserError, match="uint8"):
        detector(image)


def test_a_model_without_alignment_has_no_reasons(tmp_path: Path) -> None:
    folder = tiny_workdir.write(tmp_path / "plain", LossConfig(alignment=0, fusion=0))
    (prediction,) = Detector.from_pretrained(folder)(draw(0))
    assert prediction.verdict in ("real", "fake", "uncertain")
    assert (prediction.regions, prediction.types, prediction.reasons) == (None, None, ())


def test_the_hash_follows_what_decides_an_answer(workdir: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(workdir, tmp_path / "copy"))
    first = trained.open_trained(workdir).hash()
    assert trained.open_trained(copy).hash() == first
    text = (copy / "calibration.json").read_text()
    (copy / "calibration.json").write_text(text.replace('"high": 0.55', '"high": 0.56'))
    assert trained.open_trained(copy).hash() != first


@pytest.mark.parametrize(
    "change",
    [
        {"vision": {"activation": "quick_gelu"}}, {"vision": {"activation": "gelu_new"}},
        {"vision": {"heads": 4}}, {"vision": {"layernorm_eps": 1e-6}}, {"compute": {"dtype": "bfloat16"}},
        {"image_mean": (0.5, 0.5, 0.5)},
    ],
    ids=str,
)  # fmt: skip
def test_the_hash_follows_the_architecture(workdir: Path, change: dict[str, Any]) -> None:
    """Also where the parameters have the same shapes."""
    opened = trained.open_trained(workdir)
    model = opened.model
    vision = dataclasses.replace(model.clip.vision, **change.get("vision", {}))
    compute = dataclasses.replace(model.compute, **change.get("compute", {}))
    other = dataclasses.replace(
        model, clip=dataclasses.replace(model.clip, vision=vision), compute=compute,
        image_mean=change.get("image_mean", model.image_mean),
    )  # fmt: skip
    assert dataclasses.replace(opened, model=other).hash() != opened.hash()
    adapted, twice = (
        dataclasses.replace(model, compute=Compute(lora_rank=2, lora_alpha=alpha))
        for alpha in (16.0, 32.0)
    )
    hashes = {dataclasses.replace(opened, model=m).hash() for m in (adapted, twice)}
    assert len(hashes) == 2


def test_a_run_trained_with_cudnn_attention_opens_on_any_device(
    workdir: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(workdir, tmp_path / "copy"))
    settings = json.loads((copy / "config.json").read_text())
    settings["config"]["compute"] |= {"attention": "cudnn", "dtype": "bfloat16", "remat": "full"}
    (copy / "config.json").write_text(json.dumps(settings))
    detector = Detector.from_pretrained(copy)
    assert detector(draw(0))[0].probability is not None
    assert detector.trained.model.compute == Compute(dtype="bfloat16")


def test_a_reader_that_meets_a_checkpoint_being_deleted_takes_the_one_that_stays(
    workdir: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(workdir, tmp_path / "copy"))
    folder = copy / "checkpoints"
    older = folder / str(tiny_workdir.STEP - 1)
    shutil.copytree(folder / str(tiny_workdir.STEP), older)
    # Of two equal checkpoints the later is the best: this one is half deleted.
    later = folder / str(tiny_workdir.STEP)
    shutil.rmtree(later / "parameters" / "d")
    with pytest.raises(UserError, match="the checkpoint is damaged"):
        trained.open_trained(copy)
    deletion = threading.Timer(0.5, shutil.rmtree, [later])
    deletion.start()
    assert trained.open_trained(copy).step == tiny_workdir.STEP - 1
    deletion.join()


def test_a_picture_is_resized_as_the_model_was_trained(workdir: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(workdir, tmp_path / "copy"))
    config = json.loads((copy / "config.json").read_text())
    del config["config"]["model"]["resize"]  # as older versions wrote it
    (copy / "config.json").write_text(json.dumps(config))
    crop = np.zeros((3 * tiny.VISION.image_size - 1,) * 2 + (3,), np.uint8)
    crop[-12:] = 255
    logits = []
    for folder, resize in ((workdir, "antialiased"), (copy, "truncated")):
        detector = Detector.from_pretrained(folder)
        assert detector.trained.model.resize == resize
        view = square_view(crop, tiny.VISION.image_size, resize=resize)
        (prediction,), (expected,) = detector.predict([crop]), detector.predict([view])
        assert prediction.logit == expected.logit
        logits.append(prediction.logit)
    assert logits[0] != logits[1]
    assert trained.open_trained(copy).hash() != trained.open_trained(workdir).hash()


def test_a_crop_is_answered_as_evaluation_scores_it(workdir: Path, tmp_path: Path) -> None:
    """Decoded, viewed and judged by the loader's way and by the detector's."""
    folder, packed = shutil.copytree(workdir, tmp_path / "run"), tiny.pack_set(tmp_path)
    train_tokenizer(["This is a fake face."], tiny.TEXT.vocab_size, folder / runs.TOKENIZER)
    run = runs.load_run(folder)
    scores = run.score(packed, "validation")
    changed = run.score(packed, "validation", lambda image: image)  # as --robustness does
    np.testing.assert_array_equal(changed.logit, scores.logit)
    assert changed.reasons is None  # nothing reads them
    split = PackedSplit(packed, "validation")
    images = {
        record.id: decode_image(record.image)
        for record in map(split.__getitem__, range(len(split)))
    }
    predictions = Detector.from_pretrained(folder).predict([images[name] for name in scores.id])
    assert len(predictions) == 8
    np.testing.assert_allclose([a.logit for a in predictions], scores.logit, rtol=0, atol=1e-5)
    assert [" ".join(r.text for r in a.reasons) for a in predictions] == scores.reasons.tolist()


def broken(folder: Path, workdir: Path, kind: str) -> Path:
    target = Path(shutil.copytree(workdir, folder / kind))
    config = json.loads((target / "config.json").read_text())
    if kind == "architecture":
        config["config"]["model"]["vision"]["width"] = 64
    elif kind == "keys":
        config["config"]["model"]["vision"]["widht"] = 64
    elif kind == "hugging face":
        config = {"model_type": "clip"}
    elif kind == "no checkpoint":
        shutil.rmtree(target / "checkpoints" / str(tiny_workdir.STEP))
    elif kind == "no folder":
        shutil.rmtree(target)
        return target
    elif kind == "empty":
        shutil.rmtree(target)
        target.mkdir()
        return target
    elif kind == "bank":
        (target / "explanation.safetensors").write_bytes(b"{}")
    elif kind == "calibration":
        (target / "calibration.json").write_bytes(b"\xff")
    elif kind == "a weight that is not a float":
        config["config"]["loss"]["image"] = 10**400
    text = "[" * 100_000 if kind == "nested" else json.dumps(config)
    (target / "config.json").write_text(text)
    return target


@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning", "ignore:coroutine:RuntimeWarning"
)
@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("architecture", "of another model"),
        ("keys", "did you mean 'width'"),
        ("hugging face", "not a run's config"),
        ("nested", "config.json is not JSON"),
        ("a weight that is not a float", "config.json is not JSON"),
        ("no checkpoint", "no checkpoint yet"),
        ("no folder", "no such folder"),
        ("empty", "is not a trained workdir or an export"),
        ("bank", "not a bank of sentences"),
        ("calibration", "calibration.json: cannot be read"),
    ],
)
def test_a_source_that_is_not_a_detector_is_a_one_line_error(
    workdir: Path, tmp_path: Path, kind: str, says: str
) -> None:
    folder = broken(tmp_path, workdir, kind)
    with pytest.raises(UserError, match=says) as raised:
        Detector.from_pretrained(folder)
    assert "\n" not in str(raised.value)
    assert folder.name in str(raised.value)


def test_the_package_loads_no_jax_before_the_detector_is_asked_for() -> None:
    program = (
        "import sys, jax_vlffd, jax_vlffd.vocabulary; assert 'jax' not in sys.modules; "
        "assert 'Detector' in dir(jax_vlffd); jax_vlffd.Detector; assert 'jax' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], cwd=tiny.ROOT, check=True, timeout=60)
    assert jax_vlffd.Detector is Detector
    with pytest.raises(AttributeError, match="Detektor"):
        _ = jax_vlffd.Detektor  # type: ignore[attr-defined]


def test_crops_are_those_of_preparation(workdir: Path) -> None:
    from data_pipeline.faces.alignment import CropSettings, crop, crop_matrix

    picture = draw(3, 200)
    face = TwoFaces().detect(picture)[0]
    settings = CropSettings(96, 1.5, align=False)
    matrix = crop_matrix(face.landmarks, settings)
    expected = crop(picture, matrix, 96)
    inside = crop(np.full_like(picture, 255), matrix, 96) == 255
    (result, _) = FaceCropper(TwoFaces(), 96, 1.5, align=False, smallest=1).crops(picture)
    np.testing.assert_array_equal(result.image[inside], expected[inside])
    assert 0.5 < inside.mean() < 1
    assert result.image[~inside].min() > 0  # the border is continued, not black
    corner = cv2.transform(face.landmarks[None, 37:38].astype(np.float64), result.matrix)
    assert 0 < corner.min() < corner.max() < 96
