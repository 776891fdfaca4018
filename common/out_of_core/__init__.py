"""Training networks that need more memory than the GPU has, by swapping arrays with the host (arXiv 2010.14109)."""
from common.out_of_core.scheduler import (
    InCore,
    OutOfCore,
    add_out_of_core_flag,
    out_of_core,
)

__all__ = [
    "InCore",
    "OutOfCore",
    "add_out_of_core_flag",
    "out_of_core",
]
