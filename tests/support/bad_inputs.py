"""Bad inputs, drawn: broken files of every kind that commands read, wrong flags and settings."""

from __future__ import annotations

import importlib.util
import io
import json
import random
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
from PIL import Image

from launch.experiment import config as configs
from tests.support import tiny
from tests.support.commands import OUTPUTS, Kit
from tests.support.video_trees import clip, scene, write_video

#: Texts of JSON values that readers may stumble on.
ODD_JSON = (
    "[" * 5000, '{"a":' * 3000, "1e400", "-1e400", "9" * 5000, "NaN", "Infinity", "null", "{}", "[]", "[[]]",
    "true", "-1", "0", "3.5", "1e308", "18446744073709551616", '""', '"\\ud83d"', '"\\u0000"',
    '"\\u001b[2J"', '"../../x"', '"/etc/passwd"', '"' + "x" * 100_000 + '"', '{"": null}', '"面\\n"',
)  # fmt: skip
#: Values of flags and settings.
ODD_VALUES = (
    "", " ", "nan", "inf", "-inf", "1e400", "-1", "0", "1.5", "9" * 5000, str(2**63), str(-(2**63)), "abc",
    "None", "[", "()", "(1,)", "{}", "'", '"', "a=b", ",", ",,a", "a,a", "../../x", "/dev/null", "/dev/zero",
    "\udcff\udcfe", "a\nb", "\x1b[2J", "x" * 5000, "true", "=", "gs://", "http://[", "@", "0/0", "1/1",
    "-1/2", "*", "[a",
)  # fmt: skip
#: Commands that run for minutes where nothing is wrong.
LONG = {"bench", "calibrate_fftg", "demo"}
#: Flags of LONG ones that are wrong with certainty.
WRONG = {
    "bench": ("nothing", "step", "--out=/dev/null/x", "--repeats=x", "--config=none.py"),
    "calibrate_fftg": (
        "--plants=1",
        "--seed=x",
        "--faces=none",
        "--heldout=/dev/null",
        "--videos=none",
    ),
    "demo": ("--people=9", "--people=x", "--steps=3", "--seed=1.5", "--out=/dev/null", "stray"),
}


@dataclass(frozen=True)
class Case:
    """A command with one bad input: what it is, and the arguments."""

    command: str
    title: str
    arguments: list[str]


def broken(data: bytes, rng: random.Random) -> bytes:
    """Bytes that are cut, flipped, repeated, overwritten or swapped somewhere."""
    changed = bytearray(data)
    place = rng.randrange(len(data) + 1)
    match rng.randrange(7):
        case 0:
            return data[:place]
        case 1:
            for _ in range(rng.randint(1, 20)):
                changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
        case 2:
            changed[place : place + rng.randint(1, 400)] = bytes(rng.randint(1, 400))
        case 3:
            changed[place:place] = rng.randbytes(rng.randint(1, 400))
        case 4:
            return data[place:] + data[:place]
        case 5:
            for _ in range(rng.randint(1, 8)):  # sizes and counts are near the start
                changed[rng.randrange(min(len(changed), 64))] = rng.choice((0, 0x7F, 0x80, 0xFF))
        case _:
            return rng.choice((b"", b"\0" * 100, rng.randbytes(3000), b"\xff\xfe" + data, data * 3))
    return bytes(changed)


def odd_object(text: str, rng: random.Random) -> str:
    """A JSON object of which one value is another, or is missing, or that is broken JSON."""
    value = json.loads(text)
    holder, name, parts = value, None, value
    for _ in range(rng.randint(1, 4)):
        names = list(parts) if isinstance(parts, dict) else list(range(len(parts)))
        if not names:
            break
        holder, name = parts, rng.choice(names)
        parts = holder[name]
        if not isinstance(parts, dict | list):
            break
    if name is None or rng.random() < 0.1:
        return broken(text.encode(), rng).decode(errors="replace")
    if rng.random() < 0.1:
        del holder[name]
        return json.dumps(value)
    holder[name] = "THE VALUE"
    return json.dumps(value).replace('"THE VALUE"', rng.choice(ODD_JSON))


def odd_table(text: str, rng: random.Random) -> str:
    """A CSV of which a cell, a line or the header is another."""
    lines = text.splitlines()
    row = rng.randrange(min(len(lines), 6))
    cells = lines[row].split(",")
    cells[rng.randrange(len(cells))] = (
        rng.choice((*ODD_VALUES, *ODD_JSON)).encode(errors="replace").decode()
    )
    lines[row] = ",".join(cells)
    match rng.randrange(5):
        case 0:
            return "\n".join(lines[:row])
        case 1:
            return "\n".join(lines) + "\n" + '"' + "\n".join(lines)
        case _:
            return "\n".join(lines) + "\n"


def pictures(folder: Path, count: int, rng: random.Random) -> None:
    """Broken pictures of every format that is read."""
    folder.mkdir(parents=True)
    image = Image.fromarray(scene(0, [(30, 20, 72)]))
    formats = ["PNG", "JPEG", "WEBP", "BMP", "TIFF", "JPEG2000", "GIF", "AVIF", "PPM"]
    for number in range(count):
        name = formats[number % len(formats)]
        stored = io.BytesIO()
        try:
            image.save(stored, name)
        except (KeyError, OSError):  # this Pillow does not write it
            image.save(stored, name := "PNG")
        suffix = {"JPEG": "jpg", "JPEG2000": "jp2"}.get(name, name.lower())
        data = broken(stored.getvalue(), rng)
        (folder / f"{number:03d}.{suffix}").write_bytes(data)


def videos(folder: Path, count: int, rng: random.Random) -> None:
    """Broken videos of several containers and codecs."""
    folder.mkdir(parents=True, exist_ok=True)
    frames = [cv2.resize(frame, (160, 120)) for frame in clip(0, 12)]
    kinds = {"mp4": "mp4v", "avi": "MJPG", "mkv": "mp4v", "mov": "mp4v"}
    whole = {
        suffix: write_video(folder / f"whole.{suffix}", frames, codec).read_bytes()
        for suffix, codec in kinds.items()
    }
    for path in folder.glob("whole.*"):
        path.unlink()
    for number in range(count):
        suffix = rng.choice(sorted(kinds))
        (folder / f"{number:03d}.{suffix}").write_bytes(broken(whole[suffix], rng))


class Drawn:
    """Draws cases, each in a folder of its own."""

    def __init__(self, kit: Kit, folder: Path, seed: int) -> None:
        self.kit, self.folder = kit, folder
        self.seed, self.rng = seed, random.Random(seed)
        spec = importlib.util.spec_from_file_location("kit_recipe", kit.recipe)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        self.keys = sorted(configs.flat(json.loads(module.get_config().to_json())))
        self.kinds: list[Callable[[Path], Case]] = [
            self.flag, self.flag, self.setting, self.table, self.lines, self.model, self.model, self.packed,
            self.recipe, self.path, self.deepfakebench, self.scores,
        ]  # fmt: skip

    def case(self, number: int) -> Case:
        """The case of this number: kinds take turns."""
        place = self.folder / str(number)
        place.mkdir()
        # Each anew: what is broken has other sizes from run to run, and takes more or fewer draws.
        self.rng = random.Random(f"{self.seed} {number}")
        return self.kinds[number % len(self.kinds)](place)

    def _run(self, command: str, title: str, place: Path, **changed: str | Path) -> Case:
        """A command with its sound arguments, but these."""
        arguments = self.kit.arguments(command, place / "out")
        names = {name: f"--{name}={value}" for name, value in changed.items()}
        kept = [a for a in arguments if a.partition("=")[0].removeprefix("--") not in names]
        return Case(command, title, [*kept, *names.values()])

    def flag(self, place: Path) -> Case:
        """A flag of any command with an odd value."""
        command = self.rng.choice(sorted(OUTPUTS))
        if command in LONG:
            _, _, others = OUTPUTS[command]
            wrong = self.rng.choice(WRONG[command])
            return Case(command, wrong, [*others, wrong])
        text = (tiny.ROOT / "launch" / f"{command}.py").read_text()
        names = re.findall(r"flags\.DEFINE_\w+\(\s*\"(\w+)\"", text)
        name, value = self.rng.choice(names), self.rng.choice(ODD_VALUES)
        if name in ("workers", "base_url", "model"):  # starts many, or asks a service of others
            value = "x"
        return self._run(command, f"--{name}={value[:20]!r}", place, **{name: value})

    def setting(self, place: Path) -> Case:
        """A key of a recipe with an odd value."""
        command = self.rng.choice(["train", "sweep", "compile"])
        key, value = self.rng.choice(self.keys), self.rng.choice(ODD_VALUES)
        flag = f"config.{key}"
        return self._run(command, f"--{flag}={value[:20]!r}", place, **{flag: value})

    def table(self, place: Path) -> Case:
        """An odd table of pairs."""
        text = odd_table(self.kit.pairs.read_text(), self.rng)
        shutil.copytree(self.kit.pairs.parent, place / "pairs")
        (place / "pairs/pairs.csv").write_text(text)
        return self._run("annotate", text[:80], place, pairs=place / "pairs/pairs.csv")

    def lines(self, place: Path) -> Case:
        """An odd line among annotations."""
        source = self.kit.packed.parent / "train"
        lines = (source / "annotations.jsonl").read_text().splitlines()[:6]
        row = self.rng.randrange(len(lines))
        lines[row] = odd_object(lines[row], self.rng)
        shutil.copytree(source, place / "images")
        file = place / "images/annotations.jsonl"
        file.write_text("\n".join(lines) + "\n")
        command = self.rng.choice(["pack", "pack", "score_annotations", "convert"])
        return self._run(command, lines[row][:200], place, annotations=file)

    def model(self, place: Path) -> Case:
        """A workdir of which a file is broken."""
        shutil.copytree(self.kit.workdir, place / "model")
        files = sorted(path for path in (place / "model").rglob("*") if path.is_file())
        small = [path for path in files if path.suffix in (".json", ".jsonl", ".safetensors")]
        file = self.rng.choice(small if self.rng.random() < 0.7 else files)
        if file.suffix == ".json" and self.rng.random() < 0.7:
            file.write_text(odd_object(file.read_text(), self.rng))
        else:
            file.write_bytes(broken(file.read_bytes(), self.rng))
        command = self.rng.choice(["export", "predict", "predict", "score_reasons"])
        name = "checkpoint" if command == "predict" else "workdir"
        title = f"{file.relative_to(place)}: {file.read_bytes()[:100]!r}"
        return self._run(command, title, place, **{name: place / "model"})

    def packed(self, place: Path) -> Case:
        """A packed set of which a file is broken."""
        shutil.copytree(self.kit.packed, place / "set")
        file = self.rng.choice(
            sorted(path for path in (place / "set").rglob("*") if path.is_file())
        )
        if file.suffix == ".json" and self.rng.random() < 0.7:
            file.write_text(odd_object(file.read_text(), self.rng))
        else:
            file.write_bytes(broken(file.read_bytes(), self.rng))
        title = f"{file.relative_to(place)}: {file.read_bytes()[:100]!r}"
        if self.rng.random() < 0.5:
            return self._run("train", title, place, **{"config.data.train": place / "set"})
        return self._run("score_reasons", title, place, data=f"x={place / 'set'}")

    def recipe(self, place: Path) -> Case:
        """A recipe that does not parse, raises, or returns something else."""
        sound = self.kit.recipe.read_text()
        text = self.rng.choice(
            [
                broken(sound.encode(), self.rng).decode(errors="replace"),
                "def get_config(",
                "def get_config():\n    raise KeyError('x')\n",
                "def get_config():\n    return get_config()\n",
                "def get_config():\n    import nowhere\n",
                "def get_config():\n    return " + self.rng.choice(["None", "3", "{}", "[]", "'x'"]) + "\n",
                "raise SystemExit(0)\n", "import nowhere\n", "1 / 0\n", "get_config = 3\n", "\0", "",
                sound.replace("return [{'seed': 1}]", "return [{'seed': 'x'}]"),
                sound.replace("return [{'seed': 1}]", "return 1 / 0"),
                sound.replace("return [{'seed': 1}]", "return [3]"),
                sound.replace("return [{'seed': 1}]", "return [{3: 4}]"),
            ]
        )  # fmt: skip
        (place / "recipe.py").write_text(text)
        command = self.rng.choice(["train", "sweep", "compile"])
        return self._run(command, text[:80], place, config=place / "recipe.py")

    def path(self, place: Path) -> Case:
        """An input that is missing, empty, a folder, a pipe's name or no text."""
        command, name = self.rng.choice(
            [
                ("annotate", "pairs"), ("pack", "annotations"), ("score_annotations", "annotations"),
                ("convert", "annotations"), ("convert", "root"),
                ("score_annotations", "truth"), ("evaluate", "from_scores"), ("evaluate", "calibration"),
                ("export", "workdir"), ("export", "metrics"), ("predict", "checkpoint"), ("predict", "list"),
                ("prepare", "root"), ("score_reasons", "workdir"), ("score_reasons", "validation"),
                ("score_reasons", "clip"), ("train", "config"), ("sweep", "data"),
            ]
        )  # fmt: skip
        (place / "empty").touch()
        (place / "folder").mkdir()
        (place / "binary").write_bytes(self.rng.randbytes(2000))
        (place / "deep").write_text("[" * 100_000 + "\n")
        (place / "loop").symlink_to("loop")
        file = self.rng.choice(
            [
                "missing",
                "empty",
                "folder",
                "binary",
                "deep",
                "loop",
                "empty/x",
                "x" * 300,
                "\udcff",
                "/dev/null",
            ]
        )
        value = str(place / file)
        return self._run(
            command, f"--{name}={file}", place, **{name: f"x={value}" if name == "data" else value}
        )

    def deepfakebench(self, place: Path) -> Case:
        """An odd JSON of DeepfakeBench."""
        video = {"label": "FF-DF", "frames": ["real/0.png", "real/1.png"]}
        real = {"label": "FF-real", "frames": ["real/0.png", "real/1.png"]}
        splits = {"train": {"c23": {"000_001": video}}, "test": {}, "val": {}}
        reals = {"train": {"c23": {"000": real}}, "test": {}, "val": {}}
        text = json.dumps({"FaceForensics++": {"FF-DF": splits, "FF-real": reals}})
        text = odd_object(text, self.rng)
        (place / "set.json").write_text(text)
        return self._run(
            "prepare", text[:200], place, dataset="deepfakebench", json=place / "set.json"
        )

    def scores(self, place: Path) -> Case:
        """An odd table of scores."""
        text = odd_table((self.kit.folder / "scores.csv").read_text(), self.rng)
        (place / "scores.csv").write_text(text)
        return self._run("evaluate", text[:80], place, from_scores=f"x={place / 'scores.csv'}")
