"""Say what a network needs to train out of core, and how fast that will be; no GPU is needed (arXiv 2010.14109)."""
from out_of_core_training.__main__ import launch

if __name__ == "__main__":
    launch("plan")
