"""What the papers of this repository share."""
import logging

# nnabla announces every extension and every saved file at INFO; the scripts print what matters themselves.
logging.getLogger("nnabla").addFilter(lambda record: record.levelno > logging.INFO)
