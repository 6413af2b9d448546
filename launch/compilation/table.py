"""The report of `launch.compile` as a table of text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

_GIB = 2.0**30


def render(report: Mapping[str, Any]) -> str:
    """A report as lines of text."""
    return "\n".join(_lines(report))


def _lines(report: Mapping[str, Any]) -> Iterator[str]:
    yield (
        f"{report['topology']}: {report['chips']} chips, {report['devices']} devices, global batch "
        f"{report['batch_size']} ({report['images_per_chip']:g} a chip), remat {report['remat']}"
    )
    yield from _memory(report)
    yield from _step("train", report)
    if "collectives" in report:
        least = report["collectives_least"]
        similar = report["arrays_of_global_similarity"]
        parts = ", ".join(f"{name} {_bytes(size)}" for name, size in least.items() if size)
        yield f"  least collectives         {_bytes(sum(least.values()))} ({parts or 'none'})"
        yield (
            f"  alignment's own           {report['alignment_flops_per_chip'] / 1e12:.5f} T FLOPs, "
            f"{_bytes(report['alignment_bytes_per_chip'])} at most; arrays of the global similarity: "
            f"{'cannot be told' if similar is None else similar}"
        )
    yield from _step("eval", report["eval"])
    for entry in report.get("would_fit", ()):
        yield tried(entry)


def _memory(report: Mapping[str, Any]) -> Iterator[str]:
    available = report["hbm_available_per_chip"]
    verdict = {True: "fits", False: "DOES NOT FIT", None: "memory of the device unknown"}
    room = f" of {_bytes(available)}" if available else ""
    yield (
        f"memory a chip               {_bytes(report['hbm_bytes_per_chip'])}{room}: "
        f"{verdict[report['fits']]}"
    )
    for name, size in report["hbm_split_per_chip"].items():
        if name != "peak" and size is not None:
            yield f"  {name:<26}{_bytes(size)}"
    if report["refusal"]:
        yield f"  XLA says: {report['refusal']}"


def _step(name: str, step: Mapping[str, Any]) -> Iterator[str]:
    yield f"{name} step, compiled in {step['compile_s']} s"
    if "flops_per_chip" not in step:
        if step.get("refusal"):
            yield f"  XLA says: {step['refusal']}"
        return
    yield (
        f"  FLOPs a chip              {step['flops_per_chip'] / 1e12:.3f} T, the model's "
        f"{step['model_flops_per_chip'] / 1e12:.3f} T: {step['flops_over_model']:.3f} times"
    )
    for kind, found in step["collectives"].items():
        yield f"  {kind:<26}{_bytes(found['bytes'])} in {found['count']}"
    guess = step.get("roofline_estimate")
    if guess:
        yield (
            f"  estimate (roofline)       compute {guess['compute_s'] * 1e3:.1f} ms, memory "
            f"{guess['memory_s'] * 1e3:.1f} ms, links {guess['link_s'] * 1e3:.1f} ms"
        )
        yield (
            f"  estimated utilisation     {guess['utilisation_at_best']:.0%} if all overlaps, "
            f"{guess['utilisation_without_overlap']:.0%} if nothing does"
        )
    for target in step["uncounted_calls"]:
        yield f"  not counted: calls of {target}"


def tried(entry: Mapping[str, Any]) -> str:
    """One try to make a step fit, as a line."""
    start = f"tried {entry['key']}={entry['value']}: "
    if "error" in entry:
        return start + entry["error"]
    verdict = "fits" if entry["fits"] else "does not fit"
    ratio = entry.get("flops_over_model")
    more = f", FLOPs {ratio:.3f} times the model's" if ratio else ""
    return f"{start}{verdict}, {_bytes(entry['hbm_bytes_per_chip'])}{more}"


def _bytes(size: float | None) -> str:
    if size is None:
        return "unknown"
    return f"{size / _GIB:.3f} GiB" if size >= _GIB / 100 else f"{size / 2**20:.3f} MiB"
