"""What an import of nnabla leaves behind that was interrupted."""
import atexit
import sys


def forget_partial_nnabla() -> None:
    """Take back what nnabla has registered for the end of the process, if its import ended half-way.

    Of modules that are not there it would make a traceback, or the process would crash with another status.
    """
    init = sys.modules.get("nnabla._init")
    if init is not None and "nnabla" not in sys.modules:
        atexit.unregister(init.finalize)
