"""Reads the text of a compiled XLA program: computations, instructions, and how often each one runs.

XLA's own cost analysis counts a loop's body once, whatever the loop's length. Here the calls are followed
from the entry, and a body counts as often as its loop turns. `costs` says what the instructions cost.
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
        """Its size, without the padding of its layout."""
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
        """Of all its results."""
        return sum(shape.bytes for shape in self.shapes)

    @functools.cached_property
    def called(self) -> dict[str, str]:
        """The computations that it names, by attribute."""
        found = dict(_CALLED.findall(self.attributes))
        for n, name in enumerate(_NAME.findall("".join(_BRANCHES.findall(self.attributes)))):
            found[f"branch {n}"] = name
        return found

    @functools.cached_property
    def scope(self) -> str:
        """The path of the traced function that it came from, '' where none is told."""
        found = re.search(r'op_name="([^"]*)"', self.attributes)
        return found[1] if found else ""


Computation = dict[str, Instruction]


@dataclass(frozen=True)
class Running:
    """An instruction where it runs.

    times: how often in one run of the program. fused: whether it is part of a fusion, so that its results
    need not go through memory.
    """

    instruction: Instruction
    computation: Computation
    times: int
    fused: bool


@dataclass(frozen=True)
class Program:
    """A compiled program's computations by name, and the name of its entry."""

    computations: dict[str, Computation]
    entry: str

    def running(self) -> Iterator[Running]:
        """Every instruction that runs, loops unfolded to a number, calls followed.

        Of a conditional every branch is given: what it costs is then an upper bound.

        Raises:
          ValueError: a loop whose length cannot be told.
        """
        yield from self._running(self.entry, 1, fused=False)

    def _running(self, name: str, times: int, *, fused: bool) -> Iterator[Running]:
        computation = self.computations[name]
        for instruction in computation.values():
            yield Running(instruction, computation, times, fused)
            called = instruction.called
            if instruction.opcode == "while":
                turns = self._turns(instruction, computation)
                yield from self._running(called["body"], times * turns, fused=fused)
            elif instruction.opcode in ("fusion", "call", "conditional", "async-start"):
                inner = fused or instruction.opcode == "fusion"
                for callee in called.values():
                    yield from self._running(callee, times, fused=inner)

    def _turns(self, loop: Instruction, outside: Computation) -> int:
        """How often a loop turns: as noted by XLA, else from its counter's start, step and end."""
        if noted := _TRIPS.search(loop.attributes):
            return int(noted[1])
        condition = self.computations[loop.called["condition"]]
        body = self.computations[loop.called["body"]]
        compare = next(i for i in condition.values() if i.root)
        if (
            compare.opcode == "fusion"
        ):  # a comparison in a fusion of its own takes its arguments in order
            inner = self.computations[compare.called["calls"]]
            direction = next(i for i in inner.values() if i.root).attributes
        else:
            direction = compare.attributes
        ends = [_trace(condition, name) for name in compare.operands]
        counter = next((e for e in ends if e and e.opcode == "get-tuple-element"), None)
        bound = next((e for e in ends if e and e.opcode == "constant"), None)
        if counter is not None and bound is not None and "direction=LT" in direction:
            index = _index(counter)
            first = _trace(outside, _tuple_part(outside, loop.operands[0], index))
            after = _trace(body, next(i for i in body.values() if i.root).operands[index])
            if first is not None and first.opcode == "constant" and after is not None:
                steps = [_trace(body, name) for name in after.operands]
                step = next((s for s in steps if s and s.opcode == "constant"), None)
                if after.opcode == "add" and step is not None:
                    return math.ceil((_value(bound) - _value(first)) / _value(step))
        raise ValueError(f"cannot tell how often the loop {loop.name} turns")


def parse(text: str) -> Program:
    """Reads the text that `compiled.as_text()` gives.

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
    """The array shapes in a shape's text, `bf16[8,128]{1,0}` or a tuple of such."""
    found = []
    for dtype, dims, layout in _ARRAY.findall(text):
        space = _SPACE.search(layout)
        sizes = tuple(int(size) for size in dims.split(",") if size)
        found.append(Array(dtype, sizes, int(space[1]) if space else 0))
    return tuple(found)


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
    for place in range(opening, len(text)):
        depth += {"(": 1, ")": -1}.get(text[place], 0)
        if not depth:
            return place + 1
    raise ValueError(f"a bracket is not closed in {text[:80]!r}")


def _trace(computation: Computation, name: str) -> Instruction | None:
    """What a value is a mere copy of."""
    found = computation.get(name)
    while found is not None and found.opcode in ("copy", "bitcast", "convert", "reshape"):
        found = computation.get(found.operands[0])
    return found


def _tuple_part(computation: Computation, name: str, index: int) -> str:
    made = computation[name]
    return made.operands[index] if made.opcode == "tuple" else ""


def _index(element: Instruction) -> int:
    found = re.search(r"index=(\d+)", element.attributes)
    if found is None:
        raise ValueError(f"{element.name} names no element")
    return int(found[1])


def _value(constant: Instruction) -> int:
    return int(constant.arguments)
