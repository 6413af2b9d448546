"""Complete runs of the refinement: the output, many faults at once, a full disk, and kill -9."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("openai", reason="the extra `annotate` is not installed")

from data_pipeline.fftg.refine import online
from data_pipeline.fftg.refine.journal import Journal
from data_pipeline.fftg.refine.online import journal_path
from data_pipeline.fftg.refine.settings import RefineSettings
from jax_vlffd.errors import UserError
from jax_vlffd.vocabulary import FAKE, REAL, REGIONS, VERDICTS, regions_named
from tests.support.faulty_server import Call, FaultyServer
from tests.support.refining import CONTENT, COST, PASSING, PRICES, load, pairs, read, run, settings

pytestmark = pytest.mark.usefixtures("openai_key")


def test_good_endpoint(tmp_path: Path) -> None:
    lines = pairs(12)
    out = tmp_path / "out.jsonl"
    with FaultyServer(latency=0.05) as server:
        summary = run(server, out, lines)
    written = read(out)
    assert [line["id"] for line in written] == [line["id"] for line in lines]
    for before, after in zip(lines, written, strict=True):
        flagged = {name for name, region in before["regions"].items() if region["forged"]}
        assert after["source"] == "refined"
        assert after["caption"] != after["raw_caption"] == before["raw_caption"]
        assert regions_named(after["caption"]) == flagged
        assert after["caption"].startswith(VERDICTS[FAKE])
        assert {**after, "caption": 0, "source": 0, "refinement": 0} == {
            **before, "caption": 0, "source": 0, "refinement": 0,
        }  # fmt: skip
        provenance = after["refinement"]
        assert provenance["model"] == "test-model"
        assert provenance["answered_by"] == "test-model-2026"
        assert provenance["prompts"].startswith("v1-")
        assert provenance["format"] == "json_schema"
        assert provenance["turns"] == 1
        assert provenance["cost_usd"] == pytest.approx(COST)
    assert (summary.refined, summary.requests) == (12, 12)
    assert (summary.retries, summary.unanswered) == (0, 0)
    assert summary.spent_usd == summary.total_usd == pytest.approx(12 * COST)
    assert summary.violations == Counter()
    assert summary.violation_rate == 0
    assert 1 < server.most_at_once <= 4


def test_second_run_pays_nothing_and_writes_the_same(tmp_path: Path) -> None:
    lines = pairs(6)
    out = tmp_path / "out.jsonl"
    bad = {2: "wrong_verdict", 4: "prose"}
    with FaultyServer(lambda call: bad.get(call.number, "good")) as server:
        run(server, out, lines, concurrency=1)
        before, asked = out.read_bytes(), len(server.calls)
        summary = run(server, out, lines)
        assert len(server.calls) == asked
    assert out.read_bytes() == before
    assert (summary.requests, summary.reused, summary.refined) == (0, 6, 6)
    assert summary.spent_usd == 0
    assert summary.total_usd == pytest.approx(8 * COST)


def test_an_old_output_is_refined_again_from_its_raw_captions(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    with FaultyServer() as server:
        run(server, out, pairs(3))
        before = out.read_bytes()
        run(server, out, read(out))
    assert out.read_bytes() == before
    assert len(server.calls) == 3


def test_other_settings_do_not_disturb_what_was_paid(tmp_path: Path) -> None:
    lines, out = pairs(3), tmp_path / "out.jsonl"
    with FaultyServer() as server:
        run(server, out, lines)
        first_output = out.read_bytes()
        assert run(server, out, lines, model="another").requests == 3
        assert run(server, out, lines).requests == 0
    assert out.read_bytes() == first_output


def test_dry_run_sends_nothing(tmp_path: Path) -> None:
    notes: list[str] = []
    with FaultyServer() as server:
        files = online.dry_run(
            pairs(9),
            tmp_path / "dry",
            tmp_path / "out.jsonl",
            settings(server),
            load,
            2,
            notes.append,
        )
        assert server.calls == []
    assert [path.suffix for path in files] == [".jpg", ".txt", ".json"] * 2
    assert all(path.stat().st_size for path in files)
    assert not (tmp_path / "out.jsonl").exists()
    (said,) = notes
    assert "9 pairs, 0 settled already, 9 to ask" in said
    assert "$" in said


def test_a_full_disk_ends_the_run_and_keeps_what_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    append = Journal.append
    monkeypatch.setattr(
        Journal, "append",
        lambda self, r: append(self, r) if len(self.index) < 3 else _full(self),
    )  # fmt: skip
    with FaultyServer() as server:
        with pytest.raises(UserError, match="No space"):
            run(server, tmp_path / "out.jsonl", pairs(8), concurrency=1)
        assert len(server.calls) == 4
    with Journal(journal_path(tmp_path / "out.jsonl")) as journal:
        assert len(journal.index) == 3


def _full(journal: Journal) -> None:
    raise UserError(f"{journal.path}: a reply cannot be written (No space left on device)")


CHAOS = [*PASSING, "hang", "slow", "in_prose", *CONTENT]


def chaos(call: Call) -> str:
    """About half of all calls fail, each in a way determined by the question."""
    rng = random.Random(f"{call.tag}{call.attempt}")
    return rng.choice(CHAOS) if rng.random() < 0.5 else "good"


def test_many_faults_at_once(tmp_path: Path) -> None:
    lines, out = pairs(60), tmp_path / "out.jsonl"
    with FaultyServer(chaos) as server:
        summary = run(server, out, lines, timeout=1.0, concurrency=8, retries=12)
        calls = len(server.calls)
    print(summary.text())
    assert summary.refined + summary.fallback == 60
    assert summary.requests == calls
    assert summary.retries > 10
    assert sum(summary.violations.values()) > 5
    paid = Counter(call.tag for call in server.paid())
    assert max(paid.values()) == 1
    with Journal(journal_path(out)) as journal:
        assert len(journal.index) == summary.answered == sum(paid.values())
    for line in read(out):
        flagged = {name for name in REGIONS if line["regions"][name]["forged"]}
        assert regions_named(line["caption"]) == flagged
        assert line["source"] in ("refined", "fallback")
        assert VERDICTS[REAL] not in line["caption"]


def drive(url: str, out: str, count: int) -> None:
    """A run in its own process, to be killed."""
    changes = {"timeout": 20.0, "backoff": 0.01, "concurrency": 4, "retries": 12, **PRICES}
    online.refine_annotations(
        pairs(count), Path(out), RefineSettings(model="test-model", base_url=url, **changes), load
    )


def start(server: FaultyServer, out: Path, count: int) -> subprocess.Popen[bytes]:
    root = Path(__file__).resolve().parents[4]
    return subprocess.Popen(
        [sys.executable, "-c", f"from {__name__} import drive; drive({server.url!r}, {str(out)!r}, {count})"],
        env=os.environ | {"PYTHONPATH": str(root)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip


def journal_tags(out: Path) -> set[str]:
    """The question and turn of each complete line in the journal, read without our own reader."""
    path = journal_path(out)
    data = path.read_bytes() if path.exists() else b""
    complete = data[: data.rfind(b"\n") + 1]
    return {f"{r['key']}-{r['turn']}" for r in map(json.loads, complete.splitlines())}


def kill_in_the_middle(out: Path, kills: int, count: int, seed: int) -> dict[str, int]:
    """Kills runs of one output repeatedly, then lets one end; returns counts.

    double_payments: requests for a question whose reply was on disk when that run began.
    lost_replies: replies on disk at one kill and missing later.
    in_flight: replies that the server had sent or was sending at a kill, which are lost with the process
      and asked for again.
    """
    rng = random.Random(seed)
    figures = Counter(kills=0, double_payments=0, lost_replies=0)

    def behave(call: Call) -> str:
        does = chaos(call)
        return "good" if does in ("hang", "slow") else does

    with FaultyServer(behave, latency=0.05) as server:
        on_disk: set[str] = set()
        done = False
        while not done:
            began = len(server.calls)
            process = start(server, out, count)
            target = began + rng.randint(2, 9)
            while process.poll() is None:
                if figures["kills"] < kills and len(server.calls) >= target:
                    time.sleep(rng.uniform(0, 0.1))
                    process.send_signal(signal.SIGKILL)
                    process.wait()
                    figures["kills"] += 1
                    break
                time.sleep(0.003)
            done = process.returncode == 0
            assert done or process.returncode == -signal.SIGKILL
            figures["double_payments"] += sum(c.tag in on_disk for c in server.calls[began:])
            now = journal_tags(out)
            figures["lost_replies"] += len(on_disk - now)
            on_disk = now
        for call in server.calls:
            call.done.wait(5)
        paid = Counter(call.tag for call in server.paid())
        figures["requests"] = len(server.calls)
        figures["paid"] = sum(paid.values())
        figures["kept"] = len(on_disk)
        figures["in_flight"] = sum(paid.values()) - len(on_disk)
    return dict(figures)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kills", "count"), [(2, 24), pytest.param(20, 90, marks=pytest.mark.campaign)]
)
def test_kill_9_in_the_middle(
    tmp_path: Path,
    kills: int,
    count: int,
    seed: int,
    record_property: Callable[[str, object], None],
) -> None:
    out = tmp_path / "out.jsonl"
    figures = kill_in_the_middle(out, kills, count, seed)
    record_property("figures", figures)
    print(figures)
    assert figures["kills"] == kills
    assert figures["double_payments"] == 0
    assert figures["lost_replies"] == 0
    assert figures["in_flight"] <= 4 * kills  # no more than were under way
    written = read(out)
    assert [line["id"] for line in written] == [line["id"] for line in pairs(count)]
    assert all(line["source"] in ("refined", "fallback") for line in written)
    assert not list(tmp_path.glob(".*"))


def test_sigterm_waits_for_the_replies_in_flight(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    with FaultyServer(latency=0.3) as server:
        process = start(server, out, 40)
        while len(server.calls) < 6:
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        process.wait(120)
        for call in server.calls:
            call.done.wait(5)
    assert process.returncode != 0
    assert 6 <= len(server.calls) < 40
    assert journal_tags(out) == {call.tag for call in server.paid()}
