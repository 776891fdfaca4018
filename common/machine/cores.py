"""The cores of this machine that this process may use."""
import os

CAN_LIMIT = hasattr(os, "sched_setaffinity")    # Linux


def num_threads() -> int:
    """Return how many threads to compute with: one for each core that this process may use.

    Where the system does not tell which these are (macOS, Windows), all cores count.
    """
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def limit_cores(num: int) -> None:
    """Let this process and those it starts use `num` of its cores only, where `CAN_LIMIT`."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:num])
