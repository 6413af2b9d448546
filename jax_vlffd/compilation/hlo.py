"""Parses the text of a compiled XLA program: computations, instructions, and how often each one runs.

XLA's own cost analysis counts a loop's body once, whatever the loop's length. Here calls are followed from
the entry, and a body counts once per iteration. `costs` computes what the instructions cost.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

_BYTES = {
    "pred": 1, "s2": 0.25, "u2": 0.25, "s4": 0.5, "u4": 0.5, "s8": 1, "u8": 1, "s16": 2, "u16": 2,
    "s32": 4, "u32": 4, "s64": 8, "u64": 8, "f16": 2, "bf16": 2, "f32": 4, "f64": 8, "c64": 8,
    "c128": 16, "token": 0, "opaque": 0,
}  # fmt: skip

_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\) -> .*\{$")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = ")
_ARRAY = re.compile(r"\b([a-z]+\d*\w*)\[([\d,]*)\](?:\{([^{}]*)\})?")
_NAME = re.compile(r"%([\w.\-]+)")
_CALLED = re.compile(
    r"\b(calls|to_apply|body|condition|true_computation|false_computation)=%?([\w.\-]+)"
)
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_SPACE = re.compile(r"S\((\d+)\)")


@dataclass(frozen=True)
class Array:
    """A shape in the program. space: 0 is the device's main memory (HBM), others are on the chip."""

    dtype: str
    dims: tuple[int, ...]
    space: int = 0

    @property
    def bytes(self) -> float:
        """Size in bytes, without the padding of its layout."""
        # Types of 8 bits and fewer have many names (f8e4m3fn, ...): one byte.
        return math.prod(self.dims) * _BYTES.get(self.dtype, 1)


@dataclass(frozen=True)
class Instruction:
    """One line: `name = shapes opcode(operands), attributes`; a tuple has several shapes."""

    name: str
    opcode: str
    shapes: tuple[Array, ...]
    operands: tuple[str, ...]
    arguments: str
    attributes: str
    root: bool

    @property
    def bytes(self) -> float:
        """Size in bytes of all its results."""
        return sum(shape.bytes for shape in self.shapes)

    @functools.cached_property
    def called(self) -> dict[str, str]:
        """The computations that it calls, by attribute."""
        called = dict(_CALLED.findall(self.attributes))
        for n, name in enumerate(_NAME.findall("".join(_BRANCHES.findall(self.attributes)))):
            called[f"branch {n}"] = name
        return called

    @functools.cached_property
    def scope(self) -> str:
        """The path of the traced function that it came from, '' where unknown."""
        match = re.search(r'op_name="([^"]*)"', self.attributes)
        return match[1] if match else ""


Computation = dict[str, Instruction]


@dataclass(frozen=True)
class Execution:
    """An instruction, its computation, and how it runs.

    times: number of executions in one run of the program. fused: whether it is part of a fusion, whose
    intermediate results do not go through memory.
    """

    instruction: Instruction
    computation: Computation
    times: int
    fused: bool


@dataclass(frozen=True)
class Program:
    """A compiled program: its computations by name, and the name of its entry."""

    computations: dict[str, Computation]
    entry: str

    def executions(self) -> Iterator[Execution]:
        """Yields every instruction that runs, following calls and counting loop iterations.

        All branches of a conditional are included, so that costs are an upper bound.

        Raises:
          ValueError: a loop's trip count is unknown.
        """
        yield from self._executions(self.entry, 1, fused=False)

    def _executions(self, name: str, times: int, *, fused: bool) -> Iterator[Execution]:
        computation = self.computations[name]
        for instruction in computation.values():
            yield Execution(instruction, computation, times, fused)
            called = instruction.called
            if instruction.opcode == "while":
                trips = self._trip_count(instruction, computation)
                yield from self._executions(called["body"], times * trips, fused=fused)
            elif instruction.opcode in ("fusion", "call", "conditional", "async-start"):
                inner = fused or instruction.opcode == "fusion"
                for callee in called.values():
                    yield from self._executions(callee, times, fused=inner)

    def _trip_count(self, loop: Instruction, outside: Computation) -> int:
        """Trip count of a loop: as noted by XLA, else from its counter's start, step and end."""
        if annotated := _TRIPS.search(loop.attributes):
            return int(annotated[1])
        condition = self.computations[loop.called["condition"]]
        body = self.computations[loop.called["body"]]
        compare = next(i for i in condition.values() if i.root)
        if compare.opcode == "fusion":  # a fused comparison takes its arguments in order
            inner = self.computations[compare.called["calls"]]
            direction = next(i for i in inner.values() if i.root).attributes
        else:
            direction = compare.attributes
        compared = [_source(condition, name) for name in compare.operands]
        counter = next((e for e in compared if e and e.opcode == "get-tuple-element"), None)
        bound = next((e for e in compared if e and e.opcode == "constant"), None)
        if counter is not None and bound is not None and "direction=LT" in direction:
            index = _index(counter)
            first = _source(outside, _tuple_part(outside, loop.operands[0], index))
            after = _source(body, next(i for i in body.values() if i.root).operands[index])
            if first is not None and first.opcode == "constant" and after is not None:
                steps = [_source(body, name) for name in after.operands]
                step = next((s for s in steps if s and s.opcode == "constant"), None)
                if after.opcode == "add" and step is not None:
                    return math.ceil((_value(bound) - _value(first)) / _value(step))
        raise ValueError(f"the trip count of the loop {loop.name} is unknown")


def parse(text: str) -> Program:
    """Parses the text of `compiled.as_text()`.

    Raises:
      ValueError: it has no entry computation.
    """
    computations: dict[str, Computation] = {}
    current: Computation | None = None
    entry = ""
    for line in text.splitlines():
        if header := _HEADER.match(line):
            current = computations[header[2]] = {}
            entry = header[2] if header[1] else entry
        elif line.startswith("}"):
            current = None
        elif current is not None and (start := _INSTRUCTION.match(line)):
            instruction = _instruction(start[2], line[start.end() :], bool(start[1]))
            current[instruction.name] = instruction
    if not entry:
        raise ValueError("the text holds no entry computation of a compiled program")
    return Program(computations, entry)


def arrays(text: str) -> tuple[Array, ...]:
    """The arrays of a shape's text: `bf16[8,128]{1,0}`, or a tuple of those."""
    parsed = []
    for dtype, dims, layout in _ARRAY.findall(text):
        space = _SPACE.search(layout)
        sizes = tuple(int(size) for size in dims.split(",") if size)
        parsed.append(Array(dtype, sizes, int(space[1]) if space else 0))
    return tuple(parsed)


def _instruction(name: str, rest: str, root: bool) -> Instruction:
    shape_end = _closing(rest, 0) if rest.startswith("(") else rest.index(" ")
    shapes = arrays(rest[:shape_end])
    rest = rest[shape_end:].lstrip()
    opening = rest.index("(")
    closing = _closing(rest, opening)
    arguments = rest[opening + 1 : closing - 1]
    return Instruction(
        name,
        rest[:opening],
        shapes,
        tuple(_NAME.findall(arguments)),
        arguments,
        rest[closing:],
        root,
    )


def _closing(text: str, opening: int) -> int:
    """The position after the bracket that closes the one at `opening`."""
    depth = 0
    for position in range(opening, len(text)):
        depth += {"(": 1, ")": -1}.get(text[position], 0)
        if not depth:
            return position + 1
    raise ValueError(f"a bracket is not closed in {text[:80]!r}")


def _source(computation: Computation, name: str) -> Instruction | None:
    """The instruction that a value is a copy or reshaped copy of; None if it is not in the computation."""
    instruction = computation.get(name)
    while instruction is not None and instruction.opcode in (
        "copy",
        "bitcast",
        "convert",
        "reshape",
    ):
        instruction = computation.get(instruction.operands[0])
    return instruction


def _tuple_part(computation: Computation, name: str, index: int) -> str:
    producer = computation[name]
    return producer.operands[index] if producer.opcode == "tuple" else ""


def _index(element: Instruction) -> int:
    match = re.search(r"index=(\d+)", element.attributes)
    if match is None:
        raise ValueError(f"{element.name} has no tuple index")
    return int(match[1])


def _value(constant: Instruction) -> int:
    return int(constant.arguments)
