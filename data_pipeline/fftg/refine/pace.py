"""When a request may go out: the pace that was asked for, the money that is left, and an end of the run."""

from __future__ import annotations

import asyncio
import time


class Stopped(Exception):
    """The run is to end in good order; the message says why."""


class Halt:
    """Ends every wait of a run at once."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self._why = ""

    def __call__(self, why: str) -> None:
        """Ends all waits, now and from now on."""
        self._why = self._why or why
        self._event.set()

    async def sleep(self, seconds: float) -> None:
        """Waits.

        Raises:
          Stopped: the run is to end.
        """
        try:
            await asyncio.wait_for(self._event.wait(), max(0.0, seconds))
        except TimeoutError:
            return
        raise Stopped(self._why)


class Pacer:
    """Spaces requests so that neither limit a minute is passed; there are no bursts to regret."""

    def __init__(self, rpm: float | None, tpm: float | None, halt: Halt):
        self._per_request = 60.0 / rpm if rpm else 0.0
        self._per_token = 60.0 / tpm if tpm else 0.0
        self._next_request = 0.0
        self._next_token = 0.0
        self._held = 0.0
        self._halt = halt

    async def turn(self, tokens: float) -> None:
        """Waits for the turn of a request of about so many tokens.

        Raises:
          Stopped: the run is to end.
        """
        while True:
            start = max(time.monotonic(), self._next_request, self._next_token, self._held)
            self._next_request = start + self._per_request
            self._next_token = start + tokens * self._per_token
            while (wait := start - time.monotonic()) > 0:
                await self._halt.sleep(wait)
            if self._held <= start:
                return  # else the endpoint asked for a pause after this turn was given: take another

    def correct(self, estimated: float, counted: float) -> None:
        """Takes the counted tokens of a reply in place of the estimate."""
        self._next_token += (counted - estimated) * self._per_token

    def hold(self, seconds: float) -> bool:
        """Sends nothing for some seconds, as the endpoint asked; returns whether that is longer than before."""
        until = time.monotonic() + seconds
        longer = until > self._held + 1
        self._held = max(self._held, until)
        return longer


class Budget:
    """Money: what is spent, what is under way, and whether one more request fits."""

    def __init__(self, limit: float | None, spent: float):
        self.spent = spent
        self._limit = limit
        self._reserved = 0.0
        self._settled = asyncio.Condition()

    async def reserve(self, cost: float) -> None:
        """Sets the cost of a request aside, waiting for those under way if it does not fit yet.

        Raises:
          Stopped: it would pass the limit even when nothing is under way.
        """
        async with self._settled:
            while self._limit is not None and self.spent + self._reserved + cost > self._limit:
                if self._reserved <= 1e-12:
                    raise Stopped(f"--max_usd={self._limit:g} would be passed")
                await self._settled.wait()
            self._reserved += cost

    async def settle(self, reserved: float, cost: float) -> None:
        """Replaces what was set aside by what it came to (0: not billed)."""
        async with self._settled:
            self._reserved = max(0.0, self._reserved - reserved)
            self.spent += cost
            self._settled.notify_all()
