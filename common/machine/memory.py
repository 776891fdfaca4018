"""Memory of this process and of this machine."""
import os
import re
import sys
from pathlib import Path

from common.machine.errors import UserError

_STATUS = Path("/proc/self/status")    # of Linux


def peak_megabytes() -> float:
    """Peak memory of this process in MB; NaN on Windows, which the standard library does not ask for it.

    On Linux this is not `ru_maxrss`, which begins with the memory of the process that started this one.
    """
    if _STATUS.exists() and (found := re.search(r"VmHWM:\s+(\d+) kB", _STATUS.read_text())):
        return int(found[1]) / 1024
    try:
        import resource
    except ImportError:
        return float("nan")
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest / 2**20 if sys.platform == "darwin" else largest / 1024


def machine_memory() -> tuple[int, int]:
    """Free and total memory of this machine in bytes.

    Raises
    ------
    UserError
        The system does not tell, as macOS and Windows do not.
    """
    try:
        page = os.sysconf("SC_PAGE_SIZE")
        return page * os.sysconf("SC_AVPHYS_PAGES"), page * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError) as error:
        raise UserError("this system does not tell how much memory it has; compute on a GPU, or on Linux") from error
