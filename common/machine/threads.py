"""What the threads of a process share."""
import os
import threading


def _lock_that_forks():
    """Make a lock that the child of a fork finds free: a fork waits until no other thread holds it."""
    lock = threading.RLock()
    if hasattr(os, "register_at_fork"):    # not on Windows, which has no fork
        os.register_at_fork(before=lock.acquire, after_in_parent=lock.release, after_in_child=lock.release)
    return lock


# nnabla has one current parameter scope, one context, one `auto_forward` and one random generator for all threads of a
# process. Who builds or runs a graph where other threads may do so, too, does it within `with NNABLA:`; a thread that
# holds it may take it once more. Compiled networks of other engines run without it.
NNABLA = _lock_that_forks()
