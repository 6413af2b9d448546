"""The summary of `launch.compile` as a table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

_GIB = 2.0**30

Row = tuple[str, str]


def title(report: Mapping[str, Any]) -> str:
    """The table's title: topology and batch."""
    return (
        f"{report['topology']}: {report['chips']} chips, {report['devices']} devices, global batch "
        f"{report['batch_size']} ({report['images_per_chip']:g} a chip), remat {report['remat']}"
    )


def rows(report: Mapping[str, Any]) -> Iterator[Row]:
    """The figures of the steps and of each attempt to make them fit: names and values."""
    yield from _memory(report)
    yield from _step("train", report)
    if "collectives" in report:
        minimum = report["collectives_least"]
        similarities = report["arrays_of_global_similarity"]
        parts = ", ".join(f"{name} {_bytes(size)}" for name, size in minimum.items() if size)
        yield "  minimum collectives", f"{_bytes(sum(minimum.values()))} ({parts or 'none'})"
        yield (
            "  alignment's own",
            f"{report['alignment_flops_per_chip'] / 1e12:.5f} T FLOPs, "
            f"{_bytes(report['alignment_bytes_per_chip'])} at most; arrays of the global similarity: "
            f"{'unknown' if similarities is None else similarities}",
        )
    yield from _step("eval", report["eval"])
    yield from map(attempt_row, report.get("would_fit", ()))


def _memory(report: Mapping[str, Any]) -> Iterator[Row]:
    available = report["hbm_available_per_chip"]
    verdict = {True: "fits", False: "DOES NOT FIT", None: "memory of the device unknown"}
    room = f" of {_bytes(available)}" if available else ""
    peak = _bytes(report["hbm_bytes_per_chip"])
    yield "memory a chip", f"{peak}{room}: {verdict[report['fits']]}"
    for name, size in report["hbm_split_per_chip"].items():
        if name != "peak" and size is not None:
            yield f"  {name}", _bytes(size)
    if report["refusal"]:
        yield "  XLA says", report["refusal"]


def _step(name: str, step: Mapping[str, Any]) -> Iterator[Row]:
    yield f"{name} step", f"compiled in {step['compile_s']} s"
    if "flops_per_chip" not in step:
        if step.get("refusal"):
            yield "  XLA says", step["refusal"]
        return
    yield (
        "  FLOPs a chip",
        f"{step['flops_per_chip'] / 1e12:.3f} T, the model's "
        f"{step['model_flops_per_chip'] / 1e12:.3f} T: {step['flops_over_model']:.3f} times",
    )
    for kind, collective in step["collectives"].items():
        yield f"  {kind}", f"{_bytes(collective['bytes'])} in {collective['count']}"
    estimate = step.get("roofline_estimate")
    if estimate:
        yield (
            "  estimate (roofline)",
            f"compute {estimate['compute_s'] * 1e3:.1f} ms, memory {estimate['memory_s'] * 1e3:.1f} ms, "
            f"links {estimate['link_s'] * 1e3:.1f} ms",
        )
        yield (
            "  estimated utilization",
            f"{estimate['utilization_at_best']:.0%} if all overlaps, "
            f"{estimate['utilization_without_overlap']:.0%} if nothing does",
        )
    for target in step["uncounted_calls"]:
        yield "  not counted", f"calls of {target}"


def attempt_row(entry: Mapping[str, Any]) -> Row:
    """The row of one attempt to make a step fit."""
    name = f"tried {entry['key']}={entry['value']}"
    if "error" in entry:
        return name, entry["error"]
    verdict = "fits" if entry["fits"] else "does not fit"
    ratio = entry.get("flops_over_model")
    more = f", FLOPs {ratio:.3f} times the model's" if ratio else ""
    return name, f"{verdict}, {_bytes(entry['hbm_bytes_per_chip'])}{more}"


def _bytes(size: float | None) -> str:
    if size is None:
        return "unknown"
    return f"{size / _GIB:.3f} GiB" if size >= _GIB / 100 else f"{size / 2**20:.3f} MiB"
