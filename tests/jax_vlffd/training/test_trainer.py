"""The loop alone, with stand-ins: what comes when, and what is never saved."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest

from jax_vlffd.config import LossConfig, MeshConfig
from jax_vlffd.errors import UserError
from jax_vlffd.training import loop
from jax_vlffd.training.preemption import Preempted
from jax_vlffd.training.sharding import make_mesh
from jax_vlffd.training.state import StepSpec
from jax_vlffd.training.step import batch_fields
from tests.support import tiny


class Recorder:
    """Stands in for the step, the data, the checkpoints and the writer; remembers what came when."""

    def __init__(self, losses: dict[int, float] | None = None):
        self.events: list[str] = []
        self.values: list[dict[str, float]] = []
        self.ends: list[int] = []
        self.losses = losses or {}
        self.notice: int | None = None
        self.workdir = Path("/nowhere")

    def step(self, state: Any, batch: Any) -> Any:
        number = state.step + 1
        self.events.append(f"step {number}")
        values = dict.fromkeys(loop.WATCHED, 1.0) | {"loss": self.losses.get(number, 1.0)}
        return SimpleNamespace(step=number, parameters={}), values

    def __next__(self) -> dict[str, np.ndarray]:
        self.events.append("read")
        batch = tiny.batch(size=1, seed=len(self.ends))
        ends = [(batch[name] == tiny.EOS).argmax() for name in ("tokens", "fused_tokens")]
        self.ends.append(int(max(ends)) + 1)
        return {name: batch[name] for name in batch_fields(LossConfig())}

    def get_state(self) -> dict[str, Any]:
        return {"step": sum(event == "read" for event in self.events)}

    def set_state(self, state: dict[str, Any]) -> None:
        raise AssertionError("the loop does not move the data")

    def save(self, state: Any, position: Any, metrics: Any) -> None:
        assert position["data"]["step"] == state.step
        self.events.append(f"save {state.step}" + (" with metrics" if metrics else ""))

    def check(self) -> None:
        pass

    def reached_preemption(self, step: int) -> bool:
        return step == self.notice

    def sync(self) -> None:
        """Nothing is on a disk."""

    def wait(self) -> None:
        self.events.append("wait")

    def write(self, step: int, values: Any) -> None:
        self.values.append(values)
        kind = "validation" if any(name.startswith("validation/") for name in values) else "log"
        self.events.append(f"{kind} {step}")

    def show(self, step: int, text: str, *, force: bool = False) -> None:
        """A progress bar is not looked at."""

    def run(self, monkeypatch: pytest.MonkeyPatch, start: int = 0, **config: Any) -> list[str]:
        monkeypatch.setattr(loop, "make_train_step", lambda plan: self.step)
        mesh = make_mesh(MeshConfig(), jax.devices()[:1])
        spec = StepSpec(tiny.model(pad_to_multiple_of=1), LossConfig())
        plan = SimpleNamespace(spec=spec, mesh=mesh)

        def validate(parameters: Any) -> dict[str, float]:
            self.events.append("validate")
            return {"auc": 0.5}

        loop.train(
            plan, SimpleNamespace(step=start), self, validate, self, self,  # type: ignore[arg-type]
            loop.LoopConfig(batch_size=1, **config), loop.Clock(),
        )  # fmt: skip
        return self.events


def test_metrics_are_read_one_step_late_and_the_next_batch_after_the_save(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    events = Recorder().run(monkeypatch, steps=5, evaluate_every=3, checkpoint_every=2)
    assert events == [
        "read", "step 1",
        "read", "step 2", "log 1", "log 2", "save 2",
        "read", "step 3", "log 3", "validate", "validation 3", "save 3 with metrics",
        "read", "step 4", "log 4", "save 4",
        "read", "step 5", "log 5", "validate", "validation 5", "save 5 with metrics",
        "wait",
    ]  # fmt: skip


def test_the_last_step_is_always_validated_saved_and_logged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    events = Recorder().run(monkeypatch, steps=4, log_every=3)
    assert [e for e in events if e not in ("read",) and not e.startswith("step")] == [
        "log 3", "log 4", "validate", "validation 4", "save 4 with metrics", "wait",
    ]  # fmt: skip


def test_the_use_of_the_devices_is_that_of_texts_as_long_as_they_are_computed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recorder = Recorder()
    recorder.run(monkeypatch, steps=3, utilization_per_image=lambda text_length: text_length / 1000)
    logged = [values for values in recorder.values if "train/loss" in values]
    assert len(logged) == 3
    assert len(set(recorder.ends)) > 1
    values = logged[-1]  # of all three steps
    share = sum(recorder.ends) / 3 / 1000
    assert values["train/mfu"] == pytest.approx(values["train/images_per_second"] * share)


def test_the_speed_counts_the_steps_that_are_done(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the one that has only begun, which doubled the first speed after each save."""
    monkeypatch.setattr(loop._Meter, "lap", lambda self: 1.0)
    recorder = Recorder()
    recorder.run(monkeypatch, steps=6, checkpoint_every=3)
    speeds = [v["train/images_per_second"] for v in recorder.values if "train/loss" in v]
    assert speeds == [1, 2, 3, 1, 2, 3]


def test_a_run_that_is_done_does_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Recorder().run(monkeypatch, start=5, steps=5) == ["wait"]


def test_a_notice_of_the_platform_saves_and_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder()
    recorder.notice = 2
    with pytest.raises(Preempted, match="stopped at step 2 of 5"):
        recorder.run(monkeypatch, steps=5)
    assert recorder.events == [
        "read",
        "step 1",
        "read",
        "step 2",
        "log 1",
        "log 2",
        "save 2",
        "wait",
    ]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_is_never_saved(
    value: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder({4: value})
    with pytest.raises(UserError, match=r"loss of step 4 is not finite; the last good checkpoint"):
        recorder.run(monkeypatch, steps=9, checkpoint_every=2)
    assert [e for e in recorder.events if e.startswith("save")] == ["save 2"]
    assert "step 5" not in recorder.events  # step 4 is saved, and so it was looked at before step 5
    recorder = Recorder({3: value})
    with pytest.raises(UserError, match="of step 3 "):
        recorder.run(monkeypatch, steps=9, checkpoint_every=2)
    assert "log 3" not in recorder.events
