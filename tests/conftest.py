"""Eight simulated devices on the CPU for every test, and what tests of several files are given."""

from __future__ import annotations

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
_flags = os.environ.get("XLA_FLAGS", "")
if "xla_force_host_platform_device_count" not in _flags:
    os.environ["XLA_FLAGS"] = f"{_flags} --xla_force_host_platform_device_count=8".strip()
# XLA sizes its thread pool by this: with fewer threads than collectives in flight (8 devices, several
# each) on a machine of few cores, they wait for each other for ever.
os.environ.setdefault("NPROC", "64")

from pathlib import Path  # noqa: E402
from typing import TYPE_CHECKING, Any  # noqa: E402

import jaxtyping  # noqa: E402
import pytest  # noqa: E402

# Annotated shapes and types are checked in these modules, which nothing may have imported before.
jaxtyping.install_import_hook(
    [
        "jax_vlffd.clip.layers", "jax_vlffd.clip.towers", "jax_vlffd.inference.heatmaps", "jax_vlffd.losses",
        "jax_vlffd.model", "jax_vlffd.training.step",
    ],
    "beartype.beartype",
)  # fmt: skip

from tests.support import campaigns, compiling  # noqa: E402

os.environ["XLA_FLAGS"] += f" {compiling.FLAGS}"
os.environ.update({k: v for k, v in compiling.environment().items() if k not in os.environ})

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np

    from data_pipeline.loading.tokenizer import Tokenizer
    from tests.support.commands import Kit
    from tests.support.dataset_trees import Tree
    from tests.support.tiny_export import Made


def pytest_configure(config: pytest.Config) -> None:
    """Leaves the order of files to what follows; pytest-xdist would put those of few tests last."""
    if hasattr(config.option, "loadscopereorder"):
        config.option.loadscopereorder = False
    campaigns.draw_alike(config)
    if not hasattr(config, "workerinput"):  # once a session, not in each of its processes
        compiling.forget_old_programs()
        if campaigns.is_chosen(config):
            config.pluginmanager.register(campaigns.Results(campaigns.seed(config)))


@pytest.hookimpl(tryfirst=True)  # before tests are chosen by their marks
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Files with slow tests first, so that no process is still at one when the others have nothing left."""
    if campaigns.is_chosen(config):
        campaigns.enlarge(items)
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session")
def seed(pytestconfig: pytest.Config) -> int:
    """Of what campaigns draw."""
    return campaigns.seed(pytestconfig)


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The folder of real samples: $VLFFD_SHARED, or `shared` beside the repository."""
    folder = Path(os.environ.get("VLFFD_SHARED", compiling.REPOSITORY.parent / "shared"))
    if not (folder / "data").is_dir():
        pytest.skip(f"no real samples at {folder} (set VLFFD_SHARED)")
    return folder


@pytest.fixture(scope="session")
def clip_bytes(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A video of two frames, encoded."""
    import numpy as np

    from tests.support.video_trees import write_video

    frames = [np.full((48, 64, 3), level, np.uint8) for level in (60, 120)]
    return write_video(tmp_path_factory.mktemp("clip") / "a.mp4", frames, "mp4v").read_bytes()


@pytest.fixture
def tree(tmp_path: Path, clip_bytes: bytes) -> Tree:
    """A data set in the making."""
    from tests.support.dataset_trees import Tree

    return Tree(tmp_path, clip_bytes)


@pytest.fixture
def openai_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """A key for an endpoint, which is none of OpenAI's."""
    from tests.support.refining import SECRET

    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Where a data set lies that is to be prepared."""
    return tmp_path / "set"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Where it is prepared."""
    return tmp_path / "out"


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A packed set of 12 reals and 24 fakes."""
    from tests.support.packed_sets import make_set

    return make_set(tmp_path_factory.mktemp("one"), 12)


@pytest.fixture(scope="session")
def second(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A packed set of 6 reals and 6 fakes of another method."""
    from tests.support.packed_sets import make_set

    return make_set(tmp_path_factory.mktemp("two"), 6, ("Face2Face",))


@pytest.fixture(scope="session")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A packed set of 10 reals with a fake each; the fakes of 2 and 5 do not decode."""
    from tests.support.packed_sets import make_set

    return make_set(tmp_path_factory.mktemp("bad"), 10, ("Deepfakes",), bad=(2, 5))


@pytest.fixture(scope="session")
def tokenizer(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """Trained on the captions of `folder`."""
    from tests.support.loading import make_tokenizer

    return make_tokenizer(folder, tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="session")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A packed set for runs of the tiny model, with splits `train` and `validation`."""
    from tests.support import tiny

    return tiny.pack_set(tmp_path_factory.mktemp("set"))


@pytest.fixture(scope="session")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the tiny model as training leaves it, to be read or copied."""
    from tests.support import tiny_workdir

    return tiny_workdir.write(tmp_path_factory.mktemp("runs") / "mine")


@pytest.fixture(scope="session")
def made(packed: Path, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Workdir and export of a variant of the tiny model, each made once; to be read or copied."""
    from tests.support.tiny_export import maker

    return maker(packed, tmp_path_factory)


@pytest.fixture(scope="session")
def kit(packed: Path, tmp_path_factory: pytest.TempPathFactory) -> Kit:
    """Small inputs for every command; to be read."""
    from tests.support.commands import Kit

    return Kit(tmp_path_factory.mktemp("kit"), packed)


@pytest.fixture(scope="session")
def parameters() -> dict[str, np.ndarray]:
    """Of the small CLIP of `tests.support.hf_files`, drawn."""
    from tests.support.hf_files import draw

    return draw()


@pytest.fixture(scope="session")
def tensors(parameters: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same under Hugging Face's keys."""
    from jax_vlffd.clip import huggingface
    from tests.support.hf_files import CONFIG

    return huggingface.to_hf(parameters, CONFIG)


@pytest.fixture
def write(tmp_path: Path, tensors: dict[str, np.ndarray]) -> Callable[..., Path]:
    """Writes a checkpoint folder of them: other tensors, another config, or no weights (False)."""
    from tests.support.hf_files import writer

    return writer(tmp_path, tensors)


@pytest.fixture
def torch() -> Any:
    """Torch, without which the test is skipped."""
    return pytest.importorskip("torch", reason="torch is not installed (extra `parity`)")
