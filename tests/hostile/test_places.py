"""A model made by somebody else opens no place but its own folder, the user's flags, and what programs need.

Each command runs once, on a model whose files name every place that they can; Python's audit hook and strace
(where it is installed) see what it opens.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.hostile.test_packed_sets import poison
from tests.support import tiny, tiny_export, watched

COMMANDS = ("evaluate", "export", "score_reasons", "predict")
STRACE = shutil.which("strace")
Run = Callable[[str], Path]


@pytest.fixture(scope="module")
def elsewhere(packed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Places that the model names: a set with a module in it, a checkpoint, and a home."""
    folder = tmp_path_factory.mktemp("elsewhere")
    poison(Path(shutil.copytree(packed, folder / "set")))
    (folder / "clip").mkdir()
    (folder / "home").mkdir()
    return folder


@pytest.fixture(scope="module")
def traced(packed: Path, elsewhere: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Runs a command on the model, once; gives the folder with its logs `audit` and `strace`."""
    root = tmp_path_factory.mktemp("stranger")
    model = tiny_export.make_workdir(root / "model", packed)
    (model / "training_data.json").unlink()  # as a model of before
    (model / ".origin").write_text(str(elsewhere / "home"))
    config = json.loads((model / "config.json").read_text())
    config["config"]["data"] |= {
        "train": f"{elsewhere / 'set'},gs://theirs/set",
        "validation": f"{elsewhere / 'set'},gs://theirs/set",
        "tokenizer": "theirs/tokenizer",
    }
    config["config"]["init"] |= {"clip": "theirs/clip", "vit": "", "resume": ""}
    (model / "config.json").write_text(json.dumps(config))
    data = f"--data=own={packed}"
    arguments = {
        "evaluate": (f"--workdir={model}", data, "--split=validation", "--matrix", "--bootstrap=0"),
        "export": (f"--workdir={model}",),
        "score_reasons": (f"--workdir={model}", data, "--split=validation", f"--validation={packed}"),
        "predict": (f"--checkpoint={model}", "--crops", str(packed.parent / "train" / "real_0.png")),
    }  # fmt: skip
    done: dict[str, Path] = {}

    def run(command: str) -> Path:
        if command not in done:
            logs = tmp_path_factory.mktemp(command)
            tracer = ["strace", "-f", "-qq", "--seccomp-bpf", "-s4096", "-e", "trace=%file,%network,execve",
                      "-o", str(logs / "strace")]  # fmt: skip
            out = [f"--out={logs / 'out'}"] if command != "predict" else []
            watcher = Path(watched.__file__)
            finished = subprocess.run(
                [*(tracer if STRACE else []), sys.executable, str(watcher), str(logs / "audit"),
                 f"launch.{command}", *arguments[command], *out],
                env=tiny.environment() | {"HOME": str(logs / "home"), "TMPDIR": str(logs)},
                cwd=tiny.ROOT, capture_output=True, text=True, timeout=300, check=False,
            )  # fmt: skip
            assert finished.returncode == 0, finished.stderr
            (logs / "stdout").write_text(finished.stdout)
            (logs / "stderr").write_text(finished.stderr)
            done[command] = logs
        return done[command]

    return run


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_python_opens_imports_and_calls_nothing_that_a_model_names(
    command: str, traced: Run, elsewhere: Path
) -> None:
    events = (traced(command) / "audit").read_text().splitlines()
    assert any("model/config.json" in line for line in events)  # it does watch
    for line in events:
        assert str(elsewhere) not in line
        assert "theirs" not in line
        assert not line.startswith(("socket.connect", "socket.getaddrinfo", "os.exec")), line
        assert not line.startswith("import ('evil'"), line
    assert not list(elsewhere.glob("set/ran"))


@pytest.mark.slow
@pytest.mark.skipif(not STRACE, reason="strace is not installed")
@pytest.mark.parametrize("command", COMMANDS)
def test_nothing_outside_is_opened_and_no_network_used(
    command: str, traced: Run, elsewhere: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    homes = [
        tmp_path_factory.getbasetemp(),
        Path(sys.prefix),
        Path(sys.base_prefix),
        Path(sys.executable).resolve().parent,
        tiny.ROOT,
    ]
    allowed = tuple(f"{home}/" for home in homes) + watched.SYSTEM
    lines = (traced(command) / "strace").read_text().splitlines()
    assert any("model/config.json" in line for line in lines)
    for line in lines:
        assert str(elsewhere) not in line
        assert "AF_INET" not in line, line
        assert "theirs" not in line, line
        opened = re.search(r'\bopen(?:at)?\((?:AT_FDCWD, )?"(/[^"]*)".*= \d+', line)
        assert opened is None or f"{opened[1]}/".startswith(allowed), line
        started = re.search(r'\bexecve\("([^"]*)".* = 0', line)
        if started is not None and Path(started[1]).name != "fc-list":  # charts ask for fonts
            assert Path(started[1]).resolve() == Path(sys.executable).resolve(), line


@pytest.mark.slow
def test_what_is_not_known_is_reported(traced: Run) -> None:
    logs = traced("evaluate")
    assert "model: methods unknown; give the sets" in (logs / "stderr").read_text()
    result = json.loads((logs / "out/metrics.json").read_text())
    assert result["trained_on"] == "methods unknown"
    cells = result["matrix"][0]["cells"]["own"].values()
    assert {cell["seen"] for cell in cells} == {None}
    assert "methods unknown" in (logs / "out/report.html").read_text()
    assert "(methods: unknown;" in (traced("export") / "out/README.md").read_text()
    left_out = "the row 'untuned text tower' is left out"
    assert left_out in (traced("score_reasons") / "stderr").read_text()
