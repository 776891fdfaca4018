"""The cores of this machine that this process may use."""
import functools
import math
import os
from collections.abc import Iterator
from pathlib import Path

CAN_LIMIT = hasattr(os, "sched_setaffinity")    # Linux
_OWN_GROUPS = Path("/proc/self/cgroup")    # lines "number:controllers:path", without a controller in version 2
_GROUPS = Path("/sys/fs/cgroup")


def num_threads() -> int:
    """Return how many threads to compute with: one for each core that this process may use.

    A container that may use a share of the cores' time counts as so many cores, rounded up. Where the system does not
    tell which cores there are for this process (macOS, Windows), all cores count.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min(cores, _quota())))


@functools.cache
def _quota() -> float:
    """How many cores' time the control groups of this process allow it; infinity where there is no limit."""
    return min(_quotas(), default=math.inf)


def _quotas() -> Iterator[float]:
    """Yield the limit of each control group that this process is in, and of those around it (Linux)."""
    for line in _text(_OWN_GROUPS).splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and "cpu" not in controllers.split(","):
            continue
        top = _GROUPS / "cpu" if controllers else _GROUPS
        inner = top / path.strip("/")    # within a container, the path may be one outside of it
        for group in (inner, *(parent for parent in inner.parents if parent.is_relative_to(top))):
            files = ("cpu.cfs_quota_us", "cpu.cfs_period_us") if controllers else ("cpu.max",)
            words = " ".join(_text(group / name) for name in files).split()
            if len(words) == 2 and words[0].isdigit() and int(words[1]) > 0:    # otherwise "max", or -1
                yield int(words[0]) / int(words[1])


def _text(path: Path) -> str:
    """What the kernel says in a file; nothing where it is not there."""
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""


def limit_cores(num: int) -> None:
    """Let this process and those it starts use `num` of its cores only, where `CAN_LIMIT`."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:num])
