"""Costs of a compiled program: FLOPs of its matrix products, collectives, and bytes through memory."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from jax_vlffd.compilation.hlo import Array, Computation, Execution, Instruction, Program, parse

#: Bytes sent over a chip's links per byte of a collective among n chips.
WIRE: dict[str, Callable[[int], float]] = {
    "all-reduce": lambda n: 2 * (n - 1) / n,
    "all-gather": lambda n: (n - 1) / n,
    "reduce-scatter": lambda n: (n - 1) / n,
    "all-to-all": lambda n: (n - 1) / n,
    "collective-permute": lambda n: 1.0,
    "collective-broadcast": lambda n: 1.0,
}
#: Instructions without memory traffic of their own.
_FREE = frozenset((
    "parameter", "tuple", "get-tuple-element", "bitcast", "constant", "while", "call", "conditional",
    "after-all", "partition-id", "replica-id", "opt-barrier", "custom-call", "iota",
))  # fmt: skip
_PRODUCT_CALLS = re.compile(
    r'custom_call_target="([^"]*(?:gemm|matmul|conv|dot|tpu_custom_call)[^"]*)"', re.I
)


@dataclass(frozen=True)
class Collective:
    """Totals of one kind of collective.

    bytes: of the full arrays (gathered, reduced, or before they are scattered). wire_bytes: sent by a chip, for
    an algorithm that sends no byte twice.
    """

    count: int = 0
    bytes: float = 0.0
    wire_bytes: float = 0.0


@dataclass(frozen=True)
class Costs:
    """Costs of one run of the program on one device.

    flops: of all matrix products and convolutions. passes: the same, weighted by the bf16 products that each
    takes on a TPU (an fp32 product at full precision takes six). scoped: flops by the first of the requested
    scopes that contains the product. collectives: by kind. hbm_bytes: read and written by instructions outside
    fusions, without on-chip memory. arrays: results of instructions outside fusions. uncounted: custom calls
    that may contain products, which are not counted.
    """

    flops: float
    passes: float
    scoped: Mapping[str, float]
    collectives: Mapping[str, Collective]
    hbm_bytes: float
    arrays: frozenset[Array]
    uncounted: tuple[str, ...]

    @property
    def collective_bytes(self) -> float:
        """Bytes of all collectives."""
        return sum(kind.bytes for kind in self.collectives.values())

    @property
    def wire_bytes(self) -> float:
        """Bytes that all collectives send from a chip."""
        return sum(kind.wire_bytes for kind in self.collectives.values())


def costs(text: str, *, devices: int = 1, scopes: tuple[str, ...] = ()) -> Costs:
    """Counts the costs of a compiled program.

    Args:
      text: from `compiled.as_text()`.
      devices: that the program runs on, for collectives among all of them.
      scopes: names of `jax.named_scope` whose products are counted separately.

    Raises:
      ValueError: the text cannot be parsed, or a loop's trip count is unknown.
    """
    program = parse(text)
    flops, passes, traffic = 0.0, 0.0, 0.0
    scoped: dict[str, float] = dict.fromkeys((*scopes, ""), 0.0)
    kinds: dict[str, Collective] = {}
    uncounted: set[str] = set()
    seen: set[str] = set()
    arrays: set[Array] = set()
    for at in program.executions():
        instruction = at.instruction
        if product := at.times * product_flops(instruction, at.computation):
            flops += product
            passes += product * _passes(instruction, at.computation)
            scope = next((s for s in scopes if s in instruction.scope), None)
            scoped[scope or ""] += product
        kind = instruction.opcode.removesuffix("-start")
        if kind in WIRE and not (at.fused and _origin(instruction) in seen):
            seen.add(_origin(instruction))
            kinds[kind] = _add(kinds.get(kind, Collective()), at, kind, devices)
        if target := _PRODUCT_CALLS.search(instruction.attributes):
            uncounted.add(target[1])
        if not at.fused:
            traffic += at.times * _traffic(at, program)
            arrays.update(instruction.shapes)
    scoped.pop("")
    return Costs(flops, passes, scoped, kinds, traffic, frozenset(arrays), tuple(sorted(uncounted)))


def product_flops(instruction: Instruction, computation: Computation) -> float:
    """FLOPs of one execution, two per multiply-add; 0 for anything but a dot or convolution."""
    if instruction.opcode not in ("dot", "convolution"):
        return 0.0
    left, right = (computation[name].shapes[0].dims for name in instruction.operands[:2])
    out = instruction.shapes[0].dims
    if instruction.opcode == "dot":
        contracted = _numbers(instruction.attributes, r"lhs_contracting_dims=\{([\d,]*)\}")
        return 2.0 * math.prod(out) * math.prod(left[axis] for axis in contracted)
    return _convolution(instruction.attributes, left, right, out)


def _convolution(
    attributes: str, left: tuple[int, ...], right: tuple[int, ...], out: tuple[int, ...]
) -> float:
    """FLOPs of a convolution, which on a TPU includes products: batched ones have a dilated batch axis.

    Only pairs of an output and a window position that meet an input element count: padding and the holes of
    dilation cost no arithmetic.
    """
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", attributes)
    if labels is None:
        raise ValueError(f"a convolution without dim_labels: {attributes[:80]}")
    of_left, of_right, of_out = (
        dict(zip(labels[n], range(len(labels[n])), strict=True)) for n in (1, 2, 3)
    )
    window = re.search(r"window=\{([^}]*)\}", attributes)
    fields = dict(part.split("=") for part in window[1].split()) if window else {}
    space = sorted(name for name in of_left if name.isdigit())
    pairs = 1
    for n, name in enumerate(space):

        def value(field: str, default: str, n: int = n) -> str:
            return fields[field].split("x")[n] if field in fields else default

        pairs *= _contributing_pairs(
            left[of_left[name]], int(value("size", "1")), out[of_out[name]],
            int(value("pad", "0_0").split("_")[0]), int(value("stride", "1")),
            int(value("lhs_dilate", "1")), int(value("rhs_dilate", "1")),
        )  # fmt: skip
    groups = _numbers(attributes, r"batch_group_count=(\d+)") or [1]
    batch = left[of_left["b"]] / groups[0]
    return 2.0 * pairs * batch * right[of_right["i"]] * right[of_right["o"]]


@functools.lru_cache(maxsize=4096)
def _contributing_pairs(
    size: int, window: int, out: int, low: int, stride: int, left_step: int, right_step: int
) -> int:
    """Pairs of output and window positions along one axis that meet an input element."""
    last = (size - 1) * left_step
    count = 0
    for k in range(window):
        for o in range(out):
            at = o * stride - low + k * right_step
            count += 0 <= at <= last and at % left_step == 0
    return count


def _passes(instruction: Instruction, computation: Computation) -> int:
    kind = computation[instruction.operands[0]].shapes[0].dtype
    if kind != "f32":
        return 1
    if "highest" in instruction.attributes:
        return 6
    return 3 if "operand_precision={high," in instruction.attributes else 1


def _numbers(text: str, pattern: str) -> list[int]:
    match = re.search(pattern, text)
    return [int(part) for part in match[1].split(",") if part] if match else []


def _add(before: Collective, at: Execution, kind: str, devices: int) -> Collective:
    instruction = at.instruction
    results = [shape.bytes for shape in instruction.shapes]
    operands = [
        at.computation[name].bytes for name in instruction.operands if name in at.computation
    ]
    # The start of an asynchronous collective also returns its operands, and counters.
    size = sum(results)
    if instruction.opcode.endswith("-start") and kind != "all-reduce":
        size = max(results)
    if kind == "reduce-scatter":
        size = sum(operands)
    group = _group(instruction.attributes, devices)
    return Collective(
        before.count + at.times,
        before.bytes + at.times * size,
        before.wire_bytes + at.times * size * WIRE[kind](group) if group > 1 else before.wire_bytes,
    )


def _origin(instruction: Instruction) -> str:
    """Identifies a collective, which a TPU program may name in several fusions."""
    ids = re.findall(r"channel_id=\d+|stack_frame_id=\d+", instruction.attributes)
    return f"{instruction.opcode} {ids} {instruction.scope}"


def _group(attributes: str, devices: int) -> int:
    """Number of devices in a collective's group."""
    if match := re.search(r"replica_groups=mesh\[([^\]]*)\] ?\{([^}]*)\}", attributes):
        sizes = dict(re.findall(r"'([^']+)'=(\d+)", match[1]))
        return math.prod(int(sizes[axis]) for axis in re.findall(r"'([^']+)'", match[2]))
    if match := re.search(r"replica_groups=\[(\d+),(\d+)\]<=", attributes):
        return int(match[2])
    if match := re.search(r"replica_groups=\{\{([\d,]*)\}", attributes):
        return len(match[1].split(","))
    return devices


def _traffic(at: Execution, program: Program) -> float:
    """Bytes that an instruction outside fusions reads from and writes to HBM."""
    instruction, computation = at.instruction, at.computation
    opcode = instruction.opcode
    if opcode in _FREE or opcode.endswith(("-done", "-update")):
        return 0.0
    callee = program.computations.get(instruction.called.get("calls", ""), {})
    total = 0.0
    for n, name in enumerate(instruction.operands):
        source = computation.get(name)
        if source is not None:
            total += _read(n, source, instruction, callee, program)
    if opcode == "dynamic-update-slice":  # in place: the update is written, nothing else
        return 2 * _in_memory(computation[instruction.operands[1]].shapes)
    return total + _written(instruction, callee)


def _in_memory(shapes: tuple[Array, ...]) -> float:
    return sum(shape.bytes for shape in shapes if shape.space == 0)


def _read(
    n: int, source: Instruction, user: Instruction, callee: Computation, program: Program
) -> float:
    """Bytes that `user` reads of its n-th operand: a slice or all of it."""
    size = _in_memory(source.shapes)
    if not size:
        return 0.0
    if user.opcode == "fusion":
        needed = _needed(n, callee, program)
        return size if needed is None else min(needed, size)
    if user.opcode in ("dynamic-slice", "slice", "gather"):
        return min(user.bytes, size)
    return size


def _needed(n: int, callee: Computation, program: Program) -> float | None:
    """Bytes that a fused computation reads of its n-th parameter; None means all of it."""
    parameter = next(
        (i for i in callee.values() if i.opcode == "parameter" and i.arguments == str(n)), None
    )
    if parameter is None:
        return None
    total, names = 0.0, [parameter.name]
    while names:
        name = names.pop()
        for user in callee.values():
            if name not in user.operands:
                continue
            index = user.operands.index(name)
            if user.opcode in ("bitcast", "reshape"):
                names.append(user.name)
            elif user.opcode in ("dynamic-slice", "slice", "gather") and index == 0:
                total += user.bytes
            elif (user.opcode == "dynamic-update-slice" and index == 0) or user.opcode in WIRE:
                continue
            elif user.opcode == "fusion":
                inner = program.computations[user.called["calls"]]
                part = _needed(index, inner, program)
                if part is None:
                    return None
                total += part
            else:
                return None
    return total


def _written(instruction: Instruction, callee: Computation) -> float:
    """Bytes that an instruction writes: of a fused in-place update, the update alone."""
    size = _in_memory(instruction.shapes)
    root = next((i for i in callee.values() if i.root), None)
    if root is None or not size:
        return size
    parts = [callee[name] for name in root.operands] if root.opcode == "tuple" else [root]
    total = 0.0
    for part, shape in zip(parts, instruction.shapes, strict=False):
        producer = part
        while producer.opcode == "bitcast" and producer.operands[0] in callee:
            producer = callee[producer.operands[0]]
        if producer.opcode == "dynamic-update-slice":
            total += (
                min(callee[producer.operands[1]].bytes, shape.bytes) if shape.space == 0 else 0.0
            )
        elif producer.opcode not in WIRE:
            total += _in_memory((shape,))
    return total
