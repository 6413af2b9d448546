"""The smallest model that has every part of the real one, its batches, and runs of it by the command."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np

from configs.base import recipe
from data_pipeline.loading.settings import AugmentSettings, DataSettings
from data_pipeline.packed.builder import pack
from jax_vlffd.clip.config import CLIPConfig, Compute, TextConfig, VisionConfig
from jax_vlffd.config import (
    LossConfig,
    MeshConfig,
    ModelConfig,
    OptimConfig,
    RunConfig,
    TrainConfig,
    TuningConfig,
)
from jax_vlffd.model import graph_and_shapes
from jax_vlffd.training.sharding import make_mesh
from jax_vlffd.training.state import StepSpec, TrainPlan, TrainState, make_plan
from tests.support import compiling, processes
from tests.support.packed_sets import write_annotations

ROOT = Path(__file__).resolve().parents[2]
EOS = 599
BATCH = 16

VISION = VisionConfig(32, 2, 2, 64, "gelu", image_size=16, patch_size=8)
TEXT = TextConfig(32, 2, 2, 64, "gelu", vocab_size=600, context_length=20, eos_id=EOS)
CLIP = CLIPConfig(VISION, TEXT, embed_dim=16)


def model(**compute: Any) -> ModelConfig:
    return ModelConfig(CLIP, fusion_heads=2, fusion_mlp_width=64, compute=Compute(**compute))


def plan(
    mesh: tuple[int, int, int] = (1, 1, 1),
    *,
    loss: LossConfig | None = None,
    optim: OptimConfig | None = None,
    tuning: TuningConfig | None = None,
    steps: int = 100,
    warmup_steps: int = 0,
    accumulate: int = 1,
    separate_captions: bool = False,
    **compute: Any,
) -> TrainPlan:
    """A plan of the tiny model on the first of the simulated devices."""
    devices = jax.devices()[: int(np.prod(mesh))]
    return make_plan(
        StepSpec(model(**compute), loss or LossConfig(), separate_captions, accumulate),
        make_mesh(MeshConfig(*mesh), devices),
        tuning or TuningConfig(),
        optim or OptimConfig(learning_rate=1e-3, head_scale=1.0),
        steps=steps,
        warmup_steps=warmup_steps,
    )


def start(lora_rank: int = 0) -> dict[str, np.ndarray]:
    """Parameters of the tiny model, drawn by NumPy, so that nothing is compiled for them."""
    rng = np.random.default_rng(0)
    values = {}
    for path, shape in graph_and_shapes(model(lora_rank=lora_rank))[1].items():
        if path == "logit_scale":
            value = np.full((), CLIP.logit_scale_init)
        elif "layernorm" in path or "bias" in path:
            value = np.full(shape.shape, float(path.endswith("scale")))
        else:
            spread = 0.02 if "embedding" in path else shape.shape[-1] ** -0.5
            value = spread * rng.standard_normal(shape.shape)
        values[path] = value.astype(np.float32)
    return values


def state(plan: TrainPlan) -> TrainState:
    """A state at step 0 of a plan with these parameters; the optimizer's is all zeros."""
    values = start(plan.spec.model.compute.lora_rank)
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), plan.abstract.optimizer)
    fresh = TrainState(np.zeros((), np.int32), values, zeros)
    return jax.tree.map(jax.device_put, fresh, plan.sharding)


def batch(seed: int = 0, size: int = BATCH) -> dict[str, np.ndarray]:
    """A random training batch, half of it fakes, with few caption keys and texts of many lengths."""
    rng = np.random.default_rng(seed)
    side, length = VISION.image_size, TEXT.context_length

    def tokens() -> np.ndarray:
        result = np.full((size, length), EOS, np.int32)
        for row, end in zip(result, rng.integers(3, length, size), strict=True):
            row[:end] = rng.integers(0, EOS, end)
        return result

    label = np.arange(size, dtype=np.int32) % 2
    return {
        "image": rng.integers(0, 256, (size, side, side, 3), dtype=np.uint8),
        "label": label,
        "tokens": tokens(),
        "fused_tokens": tokens(),
        "caption_key": (label * rng.integers(1, 4, size)).astype(np.int32),
        "forged_patches": label[:, None] * rng.random((size, VISION.grid**2), np.float32),
    }


def abstract_batch(size: int, clip: CLIPConfig = CLIP) -> dict[str, jax.ShapeDtypeStruct]:
    """The shapes of a training batch."""
    image_size, grid, length = clip.vision.image_size, clip.vision.grid, clip.text.context_length
    shapes: dict[str, tuple[tuple[int, ...], Any]] = {
        "image": ((size, image_size, image_size, 3), np.uint8),
        "label": ((size,), np.int32),
        "tokens": ((size, length), np.int32),
        "fused_tokens": ((size, length), np.int32),
        "caption_key": ((size,), np.int32),
        "forged_patches": ((size, grid**2), np.float32),
    }
    return {name: jax.ShapeDtypeStruct(*shape) for name, shape in shapes.items()}


def host(tree: Any) -> Any:
    """A copy in NumPy, which donation cannot take away."""
    return jax.tree.map(lambda x: np.array(x), tree)


def difference(ours: dict[str, Any], theirs: dict[str, Any]) -> float:
    """The largest absolute difference of any parameter."""
    assert ours.keys() == theirs.keys()
    return max(float(np.abs(np.asarray(ours[k]) - np.asarray(theirs[k])).max()) for k in ours)


def pack_set(folder: Path, reals: int = 8, **changes: Any) -> Path:
    """A packed set with a split `train` and a split `validation` of other faces."""
    files = [
        write_annotations(folder / "train", reals, split="train", **changes),
        write_annotations(folder / "validation", 4, ("Face2Face",), split="validation"),
    ]
    pack(files, folder / "packed")
    return folder / "packed"


def settings(folder: Path, **changes: Any) -> tuple[RunConfig, DataSettings]:
    """Settings of a run of the tiny model on a packed set; changes are fields of any of them."""
    train = {
        "duration": "8 steps",
        "evaluate_every": "4 steps",
        "log_every": 1,
        "tensorboard": False,
    }
    data: dict[str, Any] = {"batch_size": 8, "augment": AugmentSettings.none()}
    run: dict[str, Any] = {"optim": OptimConfig(learning_rate=1e-3), "model": model()}
    for name, value in changes.items():
        for kind, values in ((TrainConfig, train), (DataSettings, data), (RunConfig, run)):
            if name in {field.name for field in dataclasses.fields(kind)}:  # the seed is of two
                values[name] = value
    data.setdefault("train", ((str(folder), 1.0),))
    data.setdefault("validation", (str(folder),))
    return RunConfig(train=TrainConfig(**train), **run), DataSettings(**data)


def write_recipe(path: Path, run: RunConfig, data: DataSettings) -> Path:
    """A config file for `--config` that gives these settings."""
    values = recipe(run, data).to_dict()
    path.write_text(
        "from ml_collections import config_dict\n\n"
        "def get_config():\n"
        f"    values = {values!r}\n"
        "    values['data']['balance'] = config_dict.placeholder(float)\n"
        "    config = config_dict.ConfigDict(values)\n"
        "    config.lock()\n"
        "    return config\n"
    )
    return path


def environment(cache: Path | None = None) -> dict[str, str]:
    """Of a command: one device, few threads, compiled programs kept in `cache`."""
    kept = {k: v for k, v in os.environ.items() if k in ("PATH", "HOME", "VIRTUAL_ENV")}
    # What is compiled here runs for a second: it is not worth much optimization.
    result = kept | compiling.environment()
    result |= {
        "PYTHONPATH": str(ROOT),
        "JAX_PLATFORMS": "cpu",
        "OMP_NUM_THREADS": "1",
        "XLA_FLAGS": f"--xla_backend_optimization_level=0 {compiling.FLAGS}",
    }
    if cache is not None:
        # Tiny programs compile too fast to be kept by default.
        result |= {
            "JAX_COMPILATION_CACHE_DIR": str(cache),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }
    return result


#: Variables that a forked command can still change; libraries read the others when they are imported.
_TOLD_ANEW = {
    *("JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"),
    *("OPENAI_API_KEY", "OPENAI_BASE_URL"),
}


def command(module: str, *arguments: object, **kwargs: Any) -> subprocess.CompletedProcess[str]:
    """Runs `python -m MODULE ARGUMENTS` to its end; forks it where the environment is the usual one."""
    usual = environment()
    kwargs = {"cwd": ROOT, "env": usual, "timeout": 600} | kwargs
    changed = {key for key, _ in usual.items() ^ kwargs["env"].items()}
    if changed <= _TOLD_ANEW and kwargs.keys() == {"cwd", "env", "timeout"}:
        given = (kwargs["env"], Path(kwargs["cwd"]), kwargs["timeout"])
        return processes.run(module, [*map(str, arguments)], *given)
    return subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)],
        capture_output=True, text=True, **kwargs,
    )  # fmt: skip
