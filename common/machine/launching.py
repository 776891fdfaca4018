"""What mpirun says of the processes that it starts, and how to start them. None of this needs MPI."""
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from common.machine.errors import UsageError


def find_mpirun() -> str | None:
    """Return the path of the `mpirun` of this Python's environment, or else on the PATH; None if there is none."""
    return shutil.which("mpirun", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))


def start_ranks(num: int, command: Sequence[str], *flags: str) -> subprocess.CompletedProcess[str]:
    """Run a command on several processes of this machine, and wait for it. It works for root, too.

    Parameters
    ----------
    num
        1: without mpirun. More need one (`find_mpirun`).
    flags
        For mpirun.
    """
    if num > 1:
        mpirun = find_mpirun()
        assert mpirun is not None
        command = [mpirun, *flags, "-n", str(num), *command]
    as_root = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **as_root})


def launched_rank() -> int:
    """Number of this process among those that mpirun started, 0 without mpirun."""
    return _of_launcher("RANK", 0)


def launched_local_rank() -> int:
    """Number of this process among those that mpirun started on this machine, 0 without mpirun."""
    return _of_launcher("LOCAL_RANK", 0)


def launched_size() -> int:
    """How many processes mpirun started, 1 without it."""
    return _of_launcher("SIZE", 1)


def _of_launcher(name: str, default: int) -> int:
    """Read a number that mpirun sets.

    Raises
    ------
    UsageError
        It is none.
    """
    variable = f"OMPI_COMM_WORLD_{name}"
    text = os.environ.get(variable, str(default))
    if not re.fullmatch("[0-9]{1,9}", text):
        raise UsageError(f"{variable}={text}: not a number such as mpirun sets; unset it")
    return int(text)
