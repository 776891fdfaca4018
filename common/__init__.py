"""What the papers of this repository share."""
import logging
import sys

# nnabla announces every extension and every saved file at INFO; the scripts print what matters themselves.
logging.getLogger("nnabla").addFilter(lambda record: record.levelno > logging.INFO)

# At every access to an array nnabla looks for these modules, which do not exist, before those that it means: 100 us.
for name in ("nnabla.nnabla", "nnabla.nnabla_ext"):
    sys.modules.setdefault(name, None)  # pyright: ignore[reportArgumentType]
