"""An ordered, bounded map over processes that end when the process that started them ends."""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

import cv2

from jax_vlffd.errors import UserError

Item = TypeVar("Item")
Result = TypeVar("Result")


def ordered_map(
    work: Callable[[Item], Result],
    items: Iterable[Item],
    workers: int,
    *,
    chunk: int = 1,
    ahead: int = 2,
    resumes: bool = True,
) -> Generator[Result, None, None]:
    """Applies `work` to items over processes and yields the results in order.

    Whatever ends the iteration early, Ctrl-C among it, ends the workers at once, in the middle of their work.

    Args:
      work: is pickled once into every process, with all that it holds.
      items: are taken as they are needed.
      workers: processes; 1 works in this one.
      chunk: items that a process takes at once.
      ahead: chunks under way for each process.
      resumes: whether a second run goes on where this one ends; is said where a process was killed.

    Raises:
      UserError: a worker process was killed. Errors of `work` come as they are.
    """
    _limit_opencv()
    if workers == 1:
        yield from map(work, items)
        return
    rest = iter(items)
    waiting: deque[Future[list[Result]]] = deque()
    context = multiprocessing.get_context("spawn")  # a fork of a process with threads may hang
    others = set(multiprocessing.active_children())
    with ProcessPoolExecutor(workers, context, _start, (work,)) as pool:
        try:
            while part := list(itertools.islice(rest, chunk)):
                with without_interrupts():
                    waiting.append(pool.submit(_work_on, part))
                if len(waiting) >= workers * ahead:
                    yield from waiting.popleft().result()
            while waiting:
                yield from waiting.popleft().result()
        except BrokenProcessPool as error:
            raise UserError(
                "a worker process was killed, most likely for memory; run the same command again "
                "with fewer --workers" + (": what is done stays done" if resumes else "")
            ) from error
        except BaseException:
            # What is under way may take minutes.
            for process in set(multiprocessing.active_children()) - others:
                process.terminate()
            raise


_work: Callable[[Any], Any]


def _start(work: Callable[[Any], Any]) -> None:
    """Begins a worker process."""
    global _work
    _work = work
    end_with_parent()
    _limit_opencv()


def _work_on(part: list[Any]) -> list[Any]:
    return [_work(item) for item in part]


def end_with_parent() -> None:
    """Lets a worker process end as soon as the process that started it does, in whatever way."""
    threading.Thread(target=_wait_for_parent, daemon=True).start()


def _wait_for_parent() -> None:
    # A worker waits for work on a pipe that the other workers hold open too, so no end of file would reach it.
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


@contextlib.contextmanager
def without_interrupts() -> Iterator[None]:
    """Starts processes that Ctrl-C, which a terminal sends to all, does not reach; this one ends them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _limit_opencv() -> None:
    cv2.setNumThreads(1)  # the processes are the parallelism
    cv2.utils.logging.setLogLevel(0)  # it would tell of a damaged file on its own
