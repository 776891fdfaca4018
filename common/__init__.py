"""What the papers of this repository share."""
import importlib
import logging
import sys
from types import ModuleType

# nnabla announces every extension and every saved file at INFO; the scripts print what matters themselves.
logging.getLogger("nnabla").addFilter(lambda record: record.levelno > logging.INFO)


class _Alias(ModuleType):
    """Stands for a module until something of it is wanted: importing nnabla here would make all commands slow."""

    def __getattr__(self, name):
        module = importlib.import_module(self.__name__.partition(".")[2])
        sys.modules[self.__name__] = module
        return getattr(module, name)


# At every access to an array, and ten times in a call of a function in Python, nnabla imports modules by these names
# before those that it means. They do not exist, and each try takes 20 us, or 100 where it is a search of all folders.
for name in ("nnabla.nnabla", "nnabla.nnabla_ext"):
    sys.modules.setdefault(name, _Alias(name))
