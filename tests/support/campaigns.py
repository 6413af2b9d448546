"""Campaigns: checks of which `make test` takes a fixed sample, and `make test-long` all.

What `make test-long` finds goes into `benchmarks/results/campaigns.json`, with seed and command.
"""

from __future__ import annotations

import json
import platform
from importlib.metadata import version
from typing import Any

import hypothesis
import pytest

from tests.support.compiling import REPOSITORY

RESULTS = REPOSITORY / "benchmarks" / "results" / "campaigns.json"
#: How many times as many examples of each property `make test-long` draws.
MORE_EXAMPLES = 20
_PROPERTIES = "properties"


def is_chosen(config: pytest.Config) -> bool:
    """Whether the session is one of campaigns: `pytest -m campaign`."""
    return bool(config.option.markexpr == "campaign")


def seed(config: pytest.Config) -> int:
    """The seed of a session's campaigns: `--hypothesis-seed`, 0 by default."""
    return int(config.getoption("--hypothesis-seed") or 0)


def draw_alike(config: pytest.Config) -> None:
    """Lets every session draw the same examples, but one of campaigns by its seed."""
    hypothesis.settings.register_profile("campaign", database=None, deadline=None)
    hypothesis.settings.register_profile("sample", database=None, deadline=None, derandomize=True)
    hypothesis.settings.load_profile("campaign" if is_chosen(config) else "sample")


def enlarge(items: list[pytest.Item]) -> None:
    """Makes a campaign of each test of a property; leaves other tests as they are."""
    enlarged: dict[Any, int] = {}  # a function may have several tests, one a parameter
    for item in items:
        function = getattr(item, "function", None)
        if not hypothesis.is_hypothesis_test(function):
            continue
        if function not in enlarged:
            held = function._hypothesis_internal_use_settings
            enlarged[function] = MORE_EXAMPLES * held.max_examples
            function._hypothesis_internal_use_settings = hypothesis.settings(
                held, max_examples=enlarged[function]
            )
        item.user_properties.append((_PROPERTIES, enlarged[function]))
        item.add_marker("campaign")


class Results:
    """Writes the results of a session of campaigns; a plugin of the process that collects the reports."""

    def __init__(self, seed: int):
        self._seed = seed
        self._results: dict[str, dict[str, Any]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or report.outcome != "passed":
            figures = dict(report.user_properties)
            self._results[report.nodeid] = {"outcome": report.outcome, **figures}

    def pytest_sessionfinish(self) -> None:
        if not self._results:  # nothing ran, as with --collect-only
            return
        properties = [result for result in self._results.values() if _PROPERTIES in result]
        content = {
            "command": f"make test-long SEED={self._seed}",
            "seed": self._seed,
            "versions": {
                "python": platform.python_version(),
                **{name: version(name) for name in ("jax", "numpy", "hypothesis")},
            },
            "properties": {
                "tests": len(properties),
                "examples": sum(result[_PROPERTIES] for result in properties),
                "failed": sum(result["outcome"] != "passed" for result in properties),
            },
            "campaigns": {
                name: result
                for name, result in sorted(self._results.items())
                if _PROPERTIES not in result or result["outcome"] != "passed"
            },
        }
        RESULTS.write_text(json.dumps(content, indent=2) + "\n")
