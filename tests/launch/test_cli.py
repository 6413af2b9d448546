"""What every command shares: flags, one-line errors, exit statuses."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from configs.base import recipe
from data_pipeline.loading.settings import DataSettings
from jax_vlffd.clip.config import CLIPConfig
from jax_vlffd.config import ModelConfig, RunConfig
from launch.experiment.config import flat
from tests.support import tiny

#: Every command, with the flags that it needs.
COMMANDS = {
    "annotate": ("--pairs=none.csv", "--out=o"),
    "calibrate_fftg": ("--faces=none", "--heldout=none", "--report=o"),
    "compile": ("--config=configs/demo.py", "--topology=cpu:8"),
    "convert": ("--to=llava", "--annotations=none.jsonl", "--out=o"),
    "demo": ("--out=o",),
    "evaluate": ("--from_scores=none.csv", "--out=o"),
    "export": ("--workdir=none", "--out=o"),
    "forge": ("--out=o",),
    "pack": ("--annotations=none.jsonl", "--out=o"),
    "prepare": ("--dataset=folder", "--root=none", "--out=o"),
    "score_annotations": ("--annotations=none.jsonl", "--out=o"),
    "score_reasons": ("--workdir=none", "--out=o"),
    "sweep": ("--config=configs/demo.py", "--workdir=o"),
    "train": ("--config=configs/demo.py", "--workdir=o"),
}

TRAIN = ("launch.train", "--config=configs/demo.py")

#: A command whose main does what its one argument says.
SCRIPT = """
import sys
from launch.cli import command
from jax_vlffd.errors import UserError

def main(argv):
    match argv[1]:
        case "data": raise UserError("the file is\\nnot there")
        case "escape": raise UserError("a\\x1b[2Jb\\udce9.mp4")
        case "fault": raise ZeroDivisionError("ours")
        case "wait":
            import time
            print("ready", flush=True)
            time.sleep(60)

command.run(main, positional=True)
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "script.py"
    path.write_text(SCRIPT)
    return path


def start(script: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(script), *arguments],
        env=tiny.environment(), text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("argument", "status", "message"),
    [
        ("nothing", 0, ""),
        ("data", 1, "error: the file is not there\n"),
        ("escape", 1, "error: a\ufffd[2Jb\ufffd.mp4\n"),
        ("--bogus", 2, "error: Unknown command line flag 'bogus'; see --help\n"),
    ],
)
def test_a_mistake_is_told_in_one_line(
    script: Path, argument: str, status: int, message: str
) -> None:
    process = start(script, argument)
    assert process.communicate(timeout=60) == ("", message)
    assert process.returncode == status


def test_a_fault_of_ours_keeps_its_traceback(script: Path) -> None:
    process = start(script, "fault")
    assert "ZeroDivisionError: ours" in process.communicate(timeout=60)[1]
    assert process.returncode == 1


def test_an_interrupt_is_no_traceback(script: Path) -> None:
    process = start(script, "wait")
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=60)[1] == "error: interrupted\n"
    assert process.returncode == 130


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--config.optim.learning_rat=1", "no key 'learning_rat'; did you mean 'learning_rate'?"),
        ("--config.optm.clip=1", "no key 'optm'; did you mean 'optim'?"),
        ("--config.data.augment.flp=1", "no key 'flp'; did you mean 'flip'?"),
        ("--config.optim.zzz=1", "the config has no key 'zzz'"),
        ("--config.optim.learning_rate=fast", "learning_rate=fast: give a number"),
        ("--config.train.log_every=1.5", "log_every=1.5: give a whole number"),
        ("--config.data.paired=maybe", "paired=maybe: give true or false"),
        ("--workdr=x", "Unknown command line flag 'workdr'. Did you mean: workdir ?"),
        ("", "--workdir must have a value"),
    ],
)
def test_a_wrong_key_value_or_file_is_one_line_and_status_2(
    flag: str, message: str, tmp_path: Path
) -> None:
    workdir = () if not flag else (f"--workdir={tmp_path / 'run'}",)
    done = tiny.command(*TRAIN, *workdir, *([flag] if flag else []))
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert message in done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ("configs/none.py", "No such file or directory: 'configs/none.py'"),
        ("configs/base.py", "has no attribute 'get_config'"),
        ("configs", "Is a directory: 'configs'"),
    ],
)
def test_what_is_no_recipe_is_one_line_and_status_2(recipe: str, message: str) -> None:
    done = tiny.command("launch.train", f"--config={recipe}", "--workdir=run")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert done.stderr.startswith("error: ")
    assert message in done.stderr


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("", "no training set: give a packed set by --config.data.train=DIR"),
        ("--config.data.train=/nowhere", "no validation set"),
        ("--config.train.keep=0", "train.keep is 0: it must be greater than 0"),
        ("--config.optim.learning_rate=nan", "optim.learning_rate is nan: it must be"),
        ("--config.seed=4294967296", "seed is 4294967296: draws use 32 bits of it"),
        ("--config.optim={'learning_rate': 1e-3}", "would drop the recipe's other values of optim"),
    ],
)
def test_a_value_that_cannot_be_is_one_line_and_status_1(
    flag: str, message: str, tmp_path: Path
) -> None:
    done = tiny.command(*TRAIN, f"--workdir={tmp_path / 'run'}", *([flag] if flag else []))
    assert done.returncode == 1, done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert message in done.stderr
    assert not (tmp_path / "run").exists()


#: Keys that the settings let be None, in a recipe and on the command line.
OPTIONAL = [
    key for key, value in flat(
        recipe(RunConfig(ModelConfig(CLIPConfig.b16())), DataSettings()).to_dict()
    ).items()
    if value is None
]  # fmt: skip


@pytest.mark.parametrize("key", OPTIONAL)
def test_an_optional_key_can_be_set_to_none(key: str, tmp_path: Path) -> None:
    done = tiny.command(*TRAIN, f"--workdir={tmp_path / 'run'}", f"--config.{key}=None")
    assert done.stderr.startswith("error: no training set"), done.stderr


def test_none_is_refused_where_a_key_needs_a_number(tmp_path: Path) -> None:
    done = tiny.command(
        *TRAIN, f"--workdir={tmp_path / 'run'}", "--config.optim.learning_rate=None"
    )
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
    assert done.stderr.startswith("error: optim.learning_rate is None: it must be")


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("last", [True, False])
def test_a_stray_argument_is_told_and_nothing_is_done(
    name: str, last: bool, tmp_path: Path
) -> None:
    given = [flag.replace("=o", f"={tmp_path / 'o'}") for flag in COMMANDS[name]]
    given.insert(len(given) if last else 0, "stray.jsonl")
    done = tiny.command(f"launch.{name}", *given)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert done.stderr.startswith("error: 'stray.jsonl' is not a flag")
    assert not list(tmp_path.iterdir())


def test_no_command_is_left_out() -> None:
    commands = {
        path.stem for path in (tiny.ROOT / "launch").glob("*.py")
        if "command.run(" in path.read_text() and "positional=True" not in path.read_text()
    }  # fmt: skip
    assert commands == COMMANDS.keys()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("predict", "--checkpoint=x", "--crops", "--size=100", "a.png"), "--size has no effect with --crops"),
        (("predict", "--checkpoint=x", "--maps", "a.png"), "--maps has no effect without --overlay"),
        (("annotate", "--pairs=p.csv", "--out=o", "--max_usd=5"), "--max_usd has no effect without"),
        (("annotate", "--pairs=p.csv", "--out=o", "--review_sample=9"), "--review_sample has no effect"),
        (("pack", "--annotations=a", "--out=o", "--split=train", "--shares=50,25,25"), "--shares has no"),
    ],
)  # fmt: skip
def test_a_flag_without_effect_is_refused(
    arguments: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    name, *rest = arguments
    done = tiny.command(f"launch.{name}", *rest, cwd=tmp_path)
    assert done.returncode == 1
    assert message in done.stderr
    assert not list(tmp_path.iterdir())
