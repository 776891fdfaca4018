"""What the papers of this repository share."""
import importlib
import logging
import sys
from types import ModuleType

# nnabla announces every extension and every saved file at INFO; the scripts print what matters themselves.
logging.getLogger("nnabla").addFilter(lambda record: record.levelno > logging.INFO)


class _Alias(ModuleType):
    """Has what another module has, looked up when it is wanted: importing nnabla here would make all commands slow.

    It is no package: Python would load the modules in it a second time, and put them into nnabla by their names, where
    functions have the same ones (`nnabla.auto_forward`).
    """

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        try:
            value = getattr(importlib.import_module(self.__name__.partition(".")[2]), name)
        except ModuleNotFoundError as missing:    # of an extension
            raise AttributeError(name) from missing
        setattr(self, name, value)
        return value


# At every access to an array, and ten times in a call of a function in Python, nnabla imports modules by these names
# before those that it means. They do not exist, and each try takes 20 us, or 100 where it is a search of all folders.
for name in ("nnabla.nnabla", *(f"nnabla.nnabla_ext{part}" for part in ("", ".cpu", ".cuda", ".cudnn"))):
    sys.modules.setdefault(name, _Alias(name))
