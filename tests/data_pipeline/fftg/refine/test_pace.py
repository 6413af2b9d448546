"""When a request may be sent: rates, and pauses that the endpoint asks for. The clock is virtual."""

from __future__ import annotations

import asyncio
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.fftg.refine.pace import Budget, Halt, Pacer, RefinementEnded
from tests.support import virtual_time


def turns(
    rpm: float | None,
    tpm: float | None,
    tokens: list[float],
    pause: tuple[float, float] | None = None,
) -> list[float]:
    """The second at which each of several waiting requests goes out; `pause` is (asked for at, seconds)."""

    async def work() -> list[float]:
        clock = asyncio.get_running_loop().time
        pacer = Pacer(rpm, tpm, Halt())
        sent: list[float] = []

        async def request(size: float) -> None:
            await pacer.turn(size)
            sent.append(clock())

        async def hold(after: float, seconds: float) -> None:
            await asyncio.sleep(after)
            pacer.hold(seconds)

        holding = [hold(*pause)] if pause else []
        await asyncio.gather(*map(request, tokens), *holding)
        return sent

    return virtual_time.run(work())


def test_requests_are_spaced_evenly() -> None:
    assert turns(150, None, [900] * 5) == pytest.approx([0, 0.4, 0.8, 1.2, 1.6])


def test_tokens_are_spaced_evenly() -> None:
    assert turns(None, 60_000, [500, 1000, 2000, 10]) == pytest.approx([0, 0.5, 1.5, 3.5])


def test_nothing_is_limited_without_limits() -> None:
    assert turns(None, None, [1e9] * 5) == [0] * 5


@given(
    st.one_of(st.none(), st.floats(1, 1000)),
    st.one_of(st.none(), st.floats(1000, 1e6)),
    st.lists(st.floats(1, 3000), min_size=1, max_size=9),
    st.floats(0, 30),
    st.floats(0.1, 600),
)
def test_a_pause_holds_every_request_that_is_not_sent(
    rpm: float | None, tpm: float | None, tokens: list[float], asked: float, seconds: float
) -> None:
    """Those whose turn had come too; and they do not all go out at its end."""
    sent = turns(rpm, tpm, tokens, (asked, seconds))
    assert not [second for second in sent if asked < second < (asked + seconds) * (1 - 1e-9)]
    gaps = [later - earlier for earlier, later in itertools.pairwise(sent)]
    assert all(gap >= 60 / rpm - 1e-6 for gap in gaps if rpm)
    assert len(sent) == len(tokens)


def test_a_second_pause_extends_the_first_and_never_shortens_it() -> None:
    async def work() -> tuple[bool, bool, bool, float]:
        pacer = Pacer(None, None, Halt())
        longer = pacer.hold(100), pacer.hold(5), pacer.hold(300)
        await pacer.turn(1)
        return *longer, asyncio.get_running_loop().time()

    assert virtual_time.run(work()) == (True, False, True, 300)


def test_a_counted_reply_corrects_the_estimate() -> None:
    async def work() -> float:
        pacer = Pacer(None, 60_000, Halt())
        await pacer.turn(1000)
        pacer.correct(1000, 5000)
        await pacer.turn(1)
        return asyncio.get_running_loop().time()

    assert virtual_time.run(work()) == pytest.approx(5)


def test_a_halt_ends_every_wait_at_once() -> None:
    async def work() -> tuple[list[object], float]:
        halt = Halt()
        pacer = Pacer(1, None, halt)
        pacer.hold(500)

        async def stop() -> None:
            await asyncio.sleep(3)
            halt("enough")

        waits = [pacer.turn(1), pacer.turn(1), halt.sleep(9e9), stop()]
        ends = await asyncio.gather(*waits, return_exceptions=True)
        return list(ends), asyncio.get_running_loop().time()

    ends, second = virtual_time.run(work())
    assert [str(end) for end in ends] == ["enough"] * 3 + ["None"]
    assert all(isinstance(end, RefinementEnded) for end in ends[:3])
    assert second == 3


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1.5)), max_size=20), st.floats(0, 5))
def test_a_budget_is_never_exceeded(costs: list[tuple[float, float]], limit: float) -> None:
    """Each request reserves what it may cost, takes a second, and is billed at most that."""

    async def work() -> float:
        budget = Budget(limit, 0.0)

        async def request(most: float, share: float) -> None:
            try:
                await budget.reserve(most)
            except RefinementEnded:
                return
            await asyncio.sleep(1)
            await budget.settle(most, most * min(share, 1.0))

        await asyncio.gather(*(request(*cost) for cost in costs))
        return budget.spent

    assert virtual_time.run(work()) <= limit + 1e-6
