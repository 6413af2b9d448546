"""`launch.annotate` with a model: by every way there is."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("openai", reason="the extra `annotate` is not installed")
pytest.importorskip("pydantic", reason="the extra `annotate` is not installed")

from tests.faulty_server import FaultyServer
from tests.refining import REPOSITORY, SECRET, answer_batch, read

pytestmark = pytest.mark.usefixtures("openai_key")


def test_the_command(tmp_path: Path, shared_dir: Path) -> None:
    """`launch.annotate` from pictures to refined lines, by every way there is."""
    pytest.importorskip("dlib", reason="the extra `faces` is not installed")
    source = shared_dir / "data" / "edited_faces"
    rows = (source / "pairs.csv").read_text().splitlines()[:4]
    for row in rows[1:]:
        for name in row.split(",")[:2]:
            (tmp_path / name).parent.mkdir(exist_ok=True)
            shutil.copy(source / name, tmp_path / name)
    (tmp_path / "pairs.csv").write_text("\n".join(rows) + "\n")
    out = tmp_path / "out.jsonl"

    def annotate(*flags: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "launch.annotate", f"--pairs={tmp_path / 'pairs.csv'}"]
        command += [f"--out={out}", "--workers=1", *flags]
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
        assert SECRET not in done.stdout + done.stderr
        return done

    with FaultyServer() as server:
        model = ("--model=test-model", f"--base_url={server.url}")
        dry = annotate(*model, "--dry_run")
        assert dry.returncode == 0, dry.stderr
        assert server.calls == []
        assert len(list((tmp_path / "out.jsonl.dry_run").iterdir())) == 9
        export = annotate(*model, "--mode=batch-export", f"--batch={tmp_path / 'ask.jsonl'}")
        assert export.returncode == 0, export.stderr
        answer_batch([tmp_path / "ask.jsonl"], tmp_path / "answers.jsonl", skip=0)
        answers = f"--batch={tmp_path / 'answers.jsonl'}"
        back = annotate(*model, "--mode=batch-import", answers)
        assert "refined 2, fallback 1" in back.stdout, back.stderr
        online = annotate(*model, f"--review={tmp_path / 'review.html'}")
        assert online.returncode == 0, online.stderr
        assert "requests 1," in online.stdout
        assert len(server.calls) == 1
    assert {line["source"] for line in read(out)} == {"refined"}
    assert (tmp_path / "review.html").read_text().count("<article ") == 3
    for wrong in (
        ("--mode=batch-import",), (*model, "--batch=x"), (*model, "--rpm=0"), ("--price_in=1", *model),
    ):  # fmt: skip
        failed = annotate(*wrong)
        assert failed.returncode == 1
        assert failed.stderr.startswith("error: ")
        assert failed.stderr.count("\n") == 1
