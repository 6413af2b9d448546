"""README and docs: every command parses, every target, link and file exists; the README's road is walked."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import tiny

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(
    r"^(?P<indent> *)```(?P<kind>\w*)[^\n]*\n(?P<body>.*?)^(?P=indent)```", re.S | re.M
)
LINK = re.compile(r"\]\(([^()\s]+)\)")
COMMAND = re.compile(r"python -m (launch\.\w+|tests\.\w+)\b")

#: Parses the flags of a module's commands without running any, and prints what is wrong with them. Each is
#: parsed in a fork: a config's keys become flags once for a process, and are sought in its sys.argv.
PARSE = """
import importlib, json, os, sys
from absl import flags
module = importlib.import_module(sys.argv[1])
for line in json.load(sys.stdin):
    if child := os.fork():
        assert os.waitpid(child, 0)[1] == 0
        continue
    sys.argv[1:] = line
    try:
        flags.FLAGS(sys.argv)
        if "config" in flags.FLAGS and flags.FLAGS["config"].present:
            flags.FLAGS["config"].value.keys()
    except (flags.Error, AttributeError, KeyError, OSError) as error:
        print(json.dumps([line, " ".join(str(error).split())[:400]]), flush=True)
    os._exit(0)
"""


def shell_lines(page: Path) -> list[str]:
    """The lines of a page's shell blocks, fenced or indented, those that go on joined."""
    text, result = page.read_text("utf-8"), []
    for block in FENCE.finditer(text):
        if block["kind"] in ("bash", "sh", "shell", ""):
            result += block["body"].replace("\\\n", " ").splitlines()
    outside = FENCE.sub("", text).replace("\\\n", " ")
    return result + [line for line in outside.splitlines() if line.startswith("    ")]


def commands(page: Path) -> list[tuple[str, list[str]]]:
    """Each `python -m launch.X` of a page with its arguments; what other programs add is cut off."""
    result = []
    for line in shell_lines(page):
        if line.lstrip().startswith("#"):
            continue
        for match in COMMAND.finditer(line):
            rest = line[match.end() :]
            if rest.count("'") % 2:  # the command stands inside quotes, which end with it
                rest = rest.partition("'")[0]
            lexer = shlex.shlex(rest, posix=True, punctuation_chars="|&;")
            lexer.whitespace_split = True
            arguments: list[str] = []
            for token in lexer:
                if set(token) <= set("|&;"):
                    break
                arguments.append(token)
            result.append((match[1], arguments))
    return result


def placeholder(argument: str) -> str:
    """An argument as it would be: shell variables and `SEED`-like words of the prose become numbers."""
    argument = re.sub(r"\$\w+", "0", argument)
    return re.sub(r"(?<==)(SEED|I|N)$", "0", argument)


def launched() -> dict[str, list[list[str]]]:
    """Arguments of the commands of all pages, by module."""
    result: dict[str, list[list[str]]] = {}
    for page in PAGES:
        for module, arguments in commands(page):
            if module.startswith("launch.") and "..." not in arguments and not any(
                a.endswith("=...") for a in arguments
            ):  # fmt: skip
                result.setdefault(module, []).append([placeholder(a) for a in arguments])
    return result


LAUNCHED = launched()


def test_the_readme_has_the_whole_road_in_its_order() -> None:
    road = [module.removeprefix("launch.") for module, _ in commands(ROOT / "README.md")]
    assert road == [
        "prepare", "annotate", "pack", "train", "evaluate", "predict", "export",
        "compile", "sweep", "convert", "convert", "score_reasons",
    ]  # fmt: skip


@pytest.mark.parametrize("module", sorted(LAUNCHED))
def test_every_flag_of_the_pages_is_known(module: str) -> None:
    assert (ROOT / f"{module.replace('.', '/')}.py").is_file()
    done = subprocess.run(
        [sys.executable, "-c", PARSE, module], input=json.dumps(LAUNCHED[module]), cwd=ROOT,
        env=tiny.environment(), capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""


def test_a_wrong_flag_and_a_wrong_key_are_found() -> None:
    wrong = [["--bogus=1"], ["--config=configs/demo.py", "--config.data.trian=x"]]
    done = subprocess.run(
        [sys.executable, "-c", PARSE, "launch.train"], input=json.dumps(wrong), cwd=ROOT,
        env=tiny.environment(), capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert [json.loads(line)[0] for line in done.stdout.splitlines()] == wrong, done.stderr


def test_recipes_of_sweeps_have_one() -> None:
    for arguments in LAUNCHED["launch.sweep"]:
        config = next(a.removeprefix("--config=") for a in arguments if a.startswith("--config="))
        text = (ROOT / config).read_text("utf-8")
        assert re.search(r"^(def get_sweep\(\)|get_sweep = )", text, re.M), config


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_targets_links_and_files_exist(page: Path) -> None:
    text = page.read_text("utf-8")
    makefile = (ROOT / "Makefile").read_text("utf-8")
    for target in re.findall(r"(?:^|`)make (\w+)", text, re.M):
        assert re.search(rf"^{target}:", makefile, re.M), f"make {target}"
    prose = FENCE.sub("", text)
    for link in LINK.findall(prose):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name) if name else page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target), link
    # Files of the repository that are named in code spans and commands.
    for name in re.findall(
        r"(?<![\w./])(?:configs|data_pipeline|jax_vlffd|launch|tests|benchmarks)/[\w/.-]+", text
    ):
        name = name.rstrip(".")
        made_by_the_command = re.search(rf"--\w+={re.escape(name)}", text)
        assert (ROOT / name).exists() or made_by_the_command or name in ("configs/X.py",), name


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and MkDocs make them."""
    text = FENCE.sub("", page.read_text("utf-8"))
    return {
        re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", heading.lower())).strip("-")
        for heading in re.findall(r"^#+ +(.+?)\s*$", text, re.M)
    }


def test_every_page_is_in_the_site_once() -> None:
    listed = re.findall(r"^ *- [^:\n]+: (\S+\.md)$", (ROOT / "mkdocs.yml").read_text("utf-8"), re.M)
    assert sorted(listed) == sorted(page.name for page in (ROOT / "docs").glob("*.md"))


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="needs the extra docs")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", f"--site-dir={tmp_path / 'site'}"],
        cwd=ROOT, env=tiny.environment(), capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "site" / "reference" / "index.html").read_text("utf-8")
    assert "jax_vlffd.inference.detector.Detector.from_pretrained" in page


@pytest.mark.slow
def test_the_readme_s_road_is_walked(tmp_path: Path) -> None:
    """The README's commands on drawn faces, in their order, with the README's own kinds of flags."""

    def step(module: str, *arguments: object) -> str:
        done = tiny.command(module, *arguments, timeout=240)
        assert done.returncode == 0, done.stderr
        return done.stdout

    drawn, packed, run = tmp_path / "drawn", tmp_path / "packed", tmp_path / "run"
    step("launch.forge", f"--out={drawn}", "--identities=30", "--fakes=2", "--workers=1")
    step(
        "launch.annotate",
        f"--pairs={drawn / 'pairs.csv'}",
        f"--out={tmp_path / 'a.jsonl'}",
        "--workers=1",
    )
    step("launch.pack", f"--annotations={tmp_path / 'a.jsonl'}", f"--out={packed}")
    settings, data = tiny.settings(packed, duration="6 steps", evaluate_every="3 steps")
    recipe = tiny.write_recipe(tmp_path / "recipe.py", settings, data)
    step(
        "launch.train", f"--config={recipe}", f"--workdir={run}",
        f"--config.data.train={packed}", f"--config.data.validation={packed}",
        "--config.model.text.context_length=128",
    )  # fmt: skip
    report = tmp_path / "eval"
    step(
        "launch.evaluate",
        f"--workdir={run}",
        f"--data=drawn={packed}",
        f"--out={report}",
        "--bootstrap=20",
    )
    metrics = json.loads((report / "metrics.json").read_text("utf-8"))
    assert metrics["sets"]["drawn"]["counts"]["frames_fake"] > 0
    export = tmp_path / "export"
    step(
        "launch.export",
        f"--workdir={run}",
        f"--metrics={report / 'metrics.json'}",
        f"--out={export}",
    )

    # The export answers as the run does, on pictures of the packed set, with maps and a report.
    pictures = sorted((drawn / "frames" / "real").iterdir())[:2]
    answers = []
    for checkpoint in (run, export):
        name = tmp_path / f"{checkpoint.name}.jsonl"
        step(
            "launch.predict", f"--checkpoint={checkpoint}", "--crops", f"--out={name}",
            f"--overlay={tmp_path / 'maps'}", f"--html={tmp_path / 'case.html'}", *pictures,
        )  # fmt: skip
        lines = [json.loads(line) for line in name.read_text("utf-8").splitlines()]
        assert [Path(line["path"]) for line in lines] == pictures
        assert all(line["verdict"] in ("real", "fake", "uncertain") for line in lines)
        assert all(Path(line["overlay"]).is_file() for line in lines)
        answers.append([line["logit"] for line in lines])
    assert answers[0] == answers[1]
    assert (tmp_path / "case.html").is_file()
