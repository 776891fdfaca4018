"""nnabla makes these at run time, with signatures that no static tool sees."""
from typing import Any

def __getattr__(name: str) -> Any: ...
