"""Data are made in threads while others are used."""
import collections
import contextlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

AHEAD = 2    # batches that wait for the consumer
Batch = TypeVar("Batch")


def prefetch(started: Iterable[Batch]) -> Iterator[Batch]:
    """Yield batches whose making begins when they are taken from `started`: `AHEAD` of them earlier than needed."""
    waiting: collections.deque[Batch] = collections.deque()
    for batch in started:
        waiting.append(batch)
        if len(waiting) > AHEAD:
            yield waiting.popleft()
    while waiting:
        yield waiting.popleft()


@contextlib.contextmanager
def parallel_map(workers: int, name: str) -> Iterator[Callable[..., Iterator]]:
    """Yield a `map` that runs in `workers` threads, or the built-in one where that is 0.

    Its results come in order; an error in a thread is raised where its result would come. Calls that have not begun
    when the context is left are dropped.
    """
    if workers == 0:
        yield map
        return
    pool = ThreadPoolExecutor(workers, thread_name_prefix=name)
    try:
        yield pool.map
    finally:
        pool.shutdown(cancel_futures=True)
