"""What the papers of this repository share."""
import logging
import sys

# nnabla announces every extension and every saved file at INFO; the scripts print what matters themselves.
logging.getLogger("nnabla").addFilter(lambda record: record.levelno > logging.INFO)

# At every access to an array nnabla searches all import paths for this module, which does not exist: 60 microseconds.
sys.modules.setdefault("nnabla.nnabla_ext", None)
