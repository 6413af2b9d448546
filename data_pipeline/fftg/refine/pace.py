"""Decides when a request may be sent: rate limits, budget, and the end of the run."""

from __future__ import annotations

import asyncio


class RefinementEnded(Exception):
    """The run ends early but orderly; the message gives the reason."""


class Halt:
    """Ends every wait of a run at once."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self._reason = ""

    def __call__(self, reason: str) -> None:
        """Ends all current and future waits; the first reason counts."""
        self._reason = self._reason or reason
        self._event.set()

    async def sleep(self, seconds: float) -> None:
        """Waits.

        Raises:
          RefinementEnded: the run ends.
        """
        try:
            await asyncio.wait_for(self._event.wait(), max(0.0, seconds))
        except TimeoutError:
            return
        raise RefinementEnded(self._reason)


class Pacer:
    """Rate limiter: spaces requests evenly within the limits per minute, without bursts.

    Its clock is the event loop's.
    """

    def __init__(self, rpm: float | None, tpm: float | None, halt: Halt):
        self._per_request = 60.0 / rpm if rpm else 0.0
        self._per_token = 60.0 / tpm if tpm else 0.0
        self._next_request = 0.0
        self._next_token = 0.0
        self._held = 0.0
        self._halt = halt

    async def turn(self, tokens: float) -> None:
        """Waits until a request of about `tokens` tokens may be sent.

        Raises:
          RefinementEnded: the run ends.
        """
        clock = asyncio.get_running_loop().time
        while True:
            start = max(clock(), self._next_request, self._next_token, self._held)
            self._next_request = start + self._per_request
            self._next_token = start + tokens * self._per_token
            while (wait := start - clock()) > 0:
                await self._halt.sleep(wait)
            if self._held <= start:
                return  # else the endpoint has asked for a pause since: wait again

    def correct(self, estimated: float, counted: float) -> None:
        """Replaces the estimated tokens of a request by the counted ones."""
        self._next_token += (counted - estimated) * self._per_token

    def hold(self, seconds: float) -> bool:
        """Holds all requests for some seconds; returns whether that extends the current pause."""
        until = asyncio.get_running_loop().time() + seconds
        longer = until > self._held + 1
        self._held = max(self._held, until)
        return longer


class Budget:
    """US dollars spent and reserved for requests in flight, against a limit."""

    def __init__(self, limit: float | None, spent: float):
        self.spent = spent
        self._limit = limit
        self._reserved = 0.0
        self._settled = asyncio.Condition()

    async def reserve(self, cost: float) -> None:
        """Reserves the cost of a request, waiting for requests in flight if it does not fit yet.

        Raises:
          RefinementEnded: it would exceed the limit even with nothing in flight.
        """
        async with self._settled:
            while self._limit is not None and self.spent + self._reserved + cost > self._limit:
                if self._reserved <= 1e-12:
                    raise RefinementEnded(f"--max_usd={self._limit:g} would be exceeded")
                await self._settled.wait()
            self._reserved += cost

    async def settle(self, reserved: float, cost: float) -> None:
        """Replaces a reservation by the actual cost (0: not billed)."""
        async with self._settled:
            self._reserved = max(0.0, self._reserved - reserved)
            self.spent += cost
            self._settled.notify_all()
