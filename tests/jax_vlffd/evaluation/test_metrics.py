"""The metrics against independent definitions, and the properties that they must have."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from jax_vlffd.errors import UserError
from jax_vlffd.evaluation import bootstrap, metrics
from jax_vlffd.evaluation.calibration import Calibration, expected_calibration_error, sigmoid
from jax_vlffd.evaluation.comparison import differences
from jax_vlffd.evaluation.scores import Scores, concatenate, from_csv, refuse_repeats, to_csv
from tests.support.work import calls

METHODS = ("Deepfakes", "Face2Face", "FaceSwap", "NeuralTextures")


def table(seed: int = 0, videos: int = 12, frames: int = 4, shift: float = 1.0, **extra) -> Scores:
    """FaceForensics++ in small: reals 000.., and four methods whose video ids are all the same."""
    rng = np.random.default_rng(seed)
    method = np.repeat(np.array(["real", *METHODS]), videos * frames)
    video = np.tile(np.repeat([f"{i:03d}_{i + 1:03d}" for i in range(videos)], frames), 5)
    label = (method != "real").astype(int)
    logit = rng.normal(size=len(label)) + shift * label
    frame = np.tile(np.arange(frames), 5 * videos)
    return Scores(
        dataset=np.full(len(label), "FaceForensics++"),
        split=np.full(len(label), "test"),
        method=method,
        video=video,
        frame=frame,
        id=[f"{m}/{v}/{f}" for m, v, f in zip(method, video, frame, strict=True)],
        label=label,
        probability=np.round(1 / (1 + np.exp(-logit)), 2),  # rounded: ties occur
        **extra,
    )


def deepfakebench(labels: np.ndarray, probability: np.ndarray) -> dict[str, float]:
    """DeepfakeBench's metrics, written from their description."""
    fpr, tpr, _ = sk.roc_curve(labels, probability, pos_label=1)
    fnr = 1 - tpr
    return {
        "frame_auc": sk.auc(fpr, tpr),
        "eer_deepfakebench": fpr[np.nanargmin(np.absolute(fnr - fpr))],
        "ap": sk.average_precision_score(labels, probability),
        "acc": np.mean((probability > 0.5).astype(int) == labels),
    }


@pytest.mark.parametrize("seed", range(5))
def test_agrees_with_deepfakebench_definitions(seed: int) -> None:
    scores = table(seed)
    measured = metrics.measure(scores, resamples=0).values
    for name, value in deepfakebench(scores.label, scores.probability).items():
        assert measured[name] == pytest.approx(value, abs=1e-12), name


def test_video_auc_groups_by_dataset_method_and_video() -> None:
    scores = table(3)
    noise = np.random.default_rng(3).normal(scale=1e-6, size=len(scores))  # no two videos tie
    scores = Scores(**{**vars(scores), "probability": np.clip(scores.probability + noise, 0, 1)})
    groups: dict[tuple[str, str, str], list[int]] = {}
    for row, key in enumerate(zip(scores.dataset, scores.method, scores.video, strict=True)):
        groups.setdefault(key, []).append(row)
    mean = [scores.probability[rows].mean() for rows in groups.values()]
    label = [scores.label[rows[0]] for rows in groups.values()]
    measured = metrics.measure(scores, resamples=0)
    assert len(groups) == 60
    assert measured.counts == metrics.SampleCounts(48, 192, 12, 48)
    assert measured.values["video_auc"] == pytest.approx(sk.roc_auc_score(label, mean), abs=1e-12)


def test_frames_without_a_video_are_videos_of_their_own() -> None:
    scores = table()
    alone = Scores(**{**vars(scores), "video": np.full(len(scores), "")})
    measured = metrics.measure(alone, resamples=0)
    assert measured.counts.videos_real == measured.counts.frames_real == 48
    assert measured.values["video_auc"] == measured.values["frame_auc"]


def test_a_method_is_measured_against_all_reals() -> None:
    scores = table(1)
    measured = metrics.evaluate(scores, resamples=0)["FaceForensics++"]
    assert list(measured.methods) == sorted(METHODS)
    for name, against_reals in measured.methods.items():
        rows = (scores.method == name) | (scores.label == 0)
        expected = sk.roc_auc_score(scores.label[rows], scores.probability[rows])
        assert against_reals.values["frame_auc"] == pytest.approx(expected)
        assert against_reals.counts == metrics.SampleCounts(48, 48, 12, 12)


def test_reals_may_carry_the_method_of_their_pair() -> None:
    scores = table(1)
    method = np.where(scores.label == 0, "Deepfakes", scores.method)
    mixed = Scores(**{**vars(scores), "method": method})
    measured = metrics.evaluate(mixed, resamples=0)["FaceForensics++"]
    assert measured.methods.keys() == set(METHODS)
    assert measured.overall.counts == metrics.SampleCounts(48, 192, 12, 48)
    assert measured.methods["FaceSwap"].counts.frames_real == 48


@pytest.mark.parametrize(("label", "missing"), [(0, "fake"), (1, "real")])
def test_one_class_gives_a_note_and_no_ranking_metrics(label: int, missing: str) -> None:
    scores = table()
    measured = metrics.measure(scores.select(scores.label == label))
    assert measured.values["frame_auc"] is None
    assert measured.values["eer"] is None
    assert f"no {missing} frames" in measured.note
    assert measured.values["acc"] is not None
    assert measured.intervals == {}


def test_interpolated_eer_of_a_curve_known_by_hand() -> None:
    # ROC points (0, 0), (0, 1/2), (1/2, 1/2), (1/2, 1), (1, 1): FPR meets FNR on the way to (1/2,
    # 1/2).
    labels, probability = np.array([1, 0, 1, 0]), np.array([0.9, 0.8, 0.7, 0.1])
    assert metrics.equal_error_rate(labels, probability) == pytest.approx(0.5)
    # All scores equal: the curve is the diagonal, and the crossing is its middle.
    assert metrics.equal_error_rate(labels, np.full(4, 0.3)) == pytest.approx(0.5)
    assert metrics.equal_error_rate(np.array([1, 0]), np.array([0.9, 0.1])) == 0.0
    # (0, 0) -> (1/3, 2/3) by one tie -> ...: the crossing lies on that point.
    labels = np.array([1, 1, 0, 1, 0, 0])
    probability = np.array([0.9, 0.9, 0.9, 0.2, 0.1, 0.1])
    assert metrics.equal_error_rate(labels, probability) == pytest.approx(1 / 3)


labeled = st.lists(
    st.tuples(st.integers(0, 1), st.integers(0, 20)), min_size=4, max_size=60
).filter(lambda rows: 0 < sum(y for y, _ in rows) < len(rows))


@settings(max_examples=80, deadline=None)
@given(labeled)
def test_swapping_the_classes_changes_nothing(rows: list[tuple[int, int]]) -> None:
    y = np.array([label for label, _ in rows])
    p = np.array([score for _, score in rows]) / 20
    assert sk.roc_auc_score(y, p) == pytest.approx(sk.roc_auc_score(1 - y, 1 - p))
    eer = metrics.equal_error_rate(y, p)
    assert eer == pytest.approx(metrics.equal_error_rate(1 - y, 1 - p))
    assert 0 <= eer <= 1


@settings(max_examples=80, deadline=None)
@given(labeled)
def test_ranking_metrics_ignore_a_monotone_transform(rows: list[tuple[int, int]]) -> None:
    y = np.array([label for label, _ in rows])
    p = np.array([score for _, score in rows]) / 20
    blank = np.full(len(y), "")

    def ranked(probability: np.ndarray) -> list[float | None]:
        names = [str(i) for i in range(len(y))]
        scores = Scores(blank, blank, blank, names, blank, names, y, probability)
        measured = metrics.measure(scores, resamples=0)
        return [measured.values[name] for name in metrics.RANKING]

    assert ranked(p) == pytest.approx(ranked(p**3 / 2))


@settings(max_examples=60, deadline=None)
@given(labeled, st.integers(0, 5))
def test_weighted_resamples_equal_repeated_rows(rows: list[tuple[int, int]], seed: int) -> None:
    y = np.array([label for label, _ in rows])
    p = np.array([score for _, score in rows]) / 20
    videos = np.arange(len(y))
    measured = bootstrap.replicates(y, p, videos, y, 3, seed, p**2, 0.3)
    for index, counts in enumerate(bootstrap.draw(y, 3, seed).astype(int)):
        ry, rp = np.repeat(y, counts), np.repeat(p, counts)
        assert ry.sum() == y.sum()
        assert measured["frame_auc"][index] == pytest.approx(sk.roc_auc_score(ry, rp))
        assert measured["video_auc"][index] == pytest.approx(sk.roc_auc_score(ry, rp))
        assert measured["ap"][index] == pytest.approx(sk.average_precision_score(ry, rp))
        assert measured["eer"][index] == pytest.approx(metrics.equal_error_rate(ry, rp))
        assert measured["acc"][index] == pytest.approx(np.mean((rp > 0.5) == ry))
        assert measured["ece"][index] == pytest.approx(expected_calibration_error(rp, ry))
        assert measured["acc_calibrated"][index] == pytest.approx(np.mean((rp**2 > 0.3) == ry))
        assert measured["ece_calibrated"][index] == pytest.approx(
            expected_calibration_error(rp**2, ry)
        )


def test_resampling_draws_whole_videos_and_keeps_the_strata() -> None:
    strata = np.array([0] * 5 + [1] * 7)
    counts = bootstrap.draw(strata, 50, seed=1)
    assert (counts[:, :5].sum(1) == 5).all()
    assert (counts[:, 5:].sum(1) == 7).all()
    assert len(np.unique(counts, axis=0)) > 40
    assert np.array_equal(counts, bootstrap.draw(strata, 50, seed=1))
    assert not np.array_equal(counts, bootstrap.draw(strata, 50, seed=2))


def test_intervals_hold_the_estimate_and_do_not_depend_on_the_order_of_rows() -> None:
    scores = table(2, videos=30)
    measured = metrics.measure(scores, Calibration(threshold=0.6, high=0.6))
    for name in ("frame_auc", "video_auc", "ap", "eer", "acc", "acc_calibrated"):
        low, high = measured.intervals[name]
        assert low < measured.values[name] < high, name
    shuffled = scores.select(np.random.default_rng(0).permutation(len(scores)))
    again = metrics.measure(shuffled, Calibration(threshold=0.6, high=0.6))
    for name, pair in measured.intervals.items():
        assert again.intervals[name] == pytest.approx(pair), name


def test_frames_of_one_video_do_not_narrow_the_interval() -> None:
    one = table(4, videos=15, frames=1)
    many = concatenate([one] * 10)  # ten copies of each frame are no new evidence
    width = {}
    for name, scores in (("one", one), ("many", many)):
        low, high = metrics.measure(scores).intervals["frame_auc"]
        width[name] = high - low
    assert width["many"] == pytest.approx(width["one"])


def test_one_video_a_class_has_no_interval() -> None:
    scores = table(videos=1)
    measured = metrics.measure(scores)
    assert measured.values["frame_auc"] is not None
    assert measured.intervals == {}
    assert "fewer than two videos" in measured.note


def test_resamples_are_computed_together() -> None:
    """A thousand of ten thousand frames take a second, as arrays; one by one they would take minutes."""
    scores = table(videos=100, frames=20)
    work = [
        calls(metrics.measure, scores, Calibration(), resamples=resamples)
        for resamples in (100, 1000)
    ]
    assert work[1] < 2 * work[0]


def test_differences_pair_only_on_the_same_videos() -> None:
    base, better = table(5, shift=1.0), table(5, shift=1.5)
    first, second = metrics.measure(base), metrics.measure(better)
    paired = differences(first, second)["frame_auc"]
    low, high = paired["interval"]
    assert low < paired["value"] < high
    width = first.intervals["frame_auc"][1] - first.intervals["frame_auc"][0]
    assert high - low < width  # same draws: the common part cancels
    other = Scores(**{**vars(better), "video": np.char.add("x", better.video)})
    unpaired = differences(first, metrics.measure(other))["frame_auc"]
    assert unpaired["value"] == pytest.approx(paired["value"])
    assert "interval" not in unpaired


def test_region_aucs_by_hand() -> None:
    truth = np.array([[1, 1, 0, 1], [1, 0, 0, 1], [1, 1, 1, 0], [1, 0, 1, 1]])
    scores = np.array([[3, 9, 2, 1], [1, 2, 1, 1], [2, 8, 4, 1], [0, 8, 3, 1.0]])
    measured = metrics.region_aucs(scores, truth)
    assert measured == {"mouth": None, "nose": 0.875, "eyes": 1.0, "face": 0.5}
    with pytest.raises(ValueError, match="not both"):
        metrics.region_aucs(scores[:2], truth)


def test_region_scores_by_hand() -> None:
    named = np.array([[1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0], [1, 0, 0, 1]])
    truth = np.array([[1, 0, 1, 0], [0, 0, 0, 0], [0, 1, 0, 0], [1, 0, 1, 1]])
    measured = metrics.region_scores(named, truth)
    assert measured["images"] == 4
    assert measured["micro"] == pytest.approx({"precision": 3 / 4, "recall": 3 / 6, "f1": 6 / 10})
    mean = measured["mean_per_image"]
    assert mean["precision"] == pytest.approx((1 / 2 + 1 + 0 + 1) / 4)
    assert mean["recall"] == pytest.approx((1 / 2 + 1 + 0 + 2 / 3) / 4)
    assert mean["f1"] == pytest.approx((1 / 2 + 1 + 0 + 4 / 5) / 4)
    assert measured["regions"]["mouth"] == {"precision": 1.0, "recall": 1.0, "f1": 1.0}
    assert measured["regions"]["eyes"] == {"precision": None, "recall": 0.0, "f1": 0.0}


def test_reasons_are_scored_on_the_fakes_only() -> None:
    scores = table(videos=2)
    regions = np.zeros((len(scores), 4), bool)
    regions[scores.label == 1, 0] = True
    reasons = np.where(scores.label == 1, "The lips look blurry. This is a fake face.", "The nose.")
    measured = metrics.evaluate(
        Scores(**{**vars(scores), "regions": regions, "reasons": reasons}), resamples=0
    )["FaceForensics++"]
    assert measured.region_words is not None
    assert measured.region_words["images"] == int(scores.label.sum())
    assert measured.region_words["micro"] == {"precision": 1.0, "recall": 1.0, "f1": 1.0}
    assert metrics.evaluate(scores, resamples=0)["FaceForensics++"].region_words is None


# --- the table ---


def test_csv_round_trip_is_exact() -> None:
    rng = np.random.default_rng(0)
    plain = table()
    logit = rng.normal(size=len(plain)) * 50
    rich = Scores(
        **{
            **vars(plain.with_set_name("my, set")),
            "probability": sigmoid(logit),
            "logit": logit,
            "regions": rng.random((len(plain), 4)) > 0.5,
            "caption": np.array(['A "quoted", comma\nand line', "<b>x</b>"])[plain.label],
            "reasons": np.full(len(plain), ""),
        }
    )
    back = from_csv(to_csv({"a": rich, "b": plain}), "scores.csv")
    assert list(back) == ["a", "b"]
    for name, value in vars(rich).items():
        assert np.array_equal(getattr(back["a"], name), value), name
    assert np.array_equal(back["b"].probability, plain.probability)
    assert set(np.asarray(back["b"].set_name)) == {"FaceForensics++"}


def test_a_table_of_only_what_is_needed() -> None:
    text = "video,method,dataset,probability,label,extra\n000,real,X,0.25,0,?\n001,DF,X,0.5,1,?\n"
    scores = from_csv(text, "s.csv")[""]
    assert scores.probability.tolist() == [0.25, 0.5]
    assert scores.split.tolist() == ["", ""]
    assert scores.logits() == pytest.approx([np.log(1 / 3), 0.0])


HEADER = "dataset,method,video,label,probability\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "lacks the column"),
        ("dataset,method,video,label\n", "lacks the column(s) probability"),
        (HEADER, "has no scores"),
        (HEADER + "a,b,c,1,0.5\na,b,c,fake,0.5\n", "s.csv, line 3: the label is 'fake'"),
        (HEADER + "a,b,c,1,1.5\n", "line 2: the probability is '1.5'"),
        (HEADER + "a,b,c,1,nan\n", "line 2: the probability is 'nan'"),
        (HEADER + "a,b,c,1\n", "line 2: the number of fields differs"),
        (HEADER + "a,b,c,1,0.5,7\n", "line 2: the number of fields differs"),
        (HEADER.replace("video", "video,regions") + "a,b,c,lip,1,0.5\n", "'lip' is not a region"),
    ],
)
def test_bad_tables_are_named(text: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        from_csv(text, "s.csv")
    assert message in str(error.value)


def test_wrong_arrays_are_refused() -> None:
    good = vars(table())
    with pytest.raises(UserError, match="row 3"):
        Scores(**{**good, "probability": np.r_[0.5, 0.5, np.nan, good["probability"][3:]]})
    with pytest.raises(UserError, match="neither 0 nor 1"):
        Scores(**{**good, "label": good["label"] * 2})
    with pytest.raises(UserError, match="entries"):
        Scores(**{**good, "video": good["video"][1:]})


def test_a_frame_scored_twice_is_refused() -> None:
    scores = table()
    refuse_repeats(scores, "x")
    with pytest.raises(UserError, match="scored twice"):
        refuse_repeats(concatenate([scores, scores]), "x")
    refuse_repeats(concatenate([scores, scores.with_set_name("other")]), "x")
