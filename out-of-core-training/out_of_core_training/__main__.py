"""The commands of this package: `python -m out_of_core_training COMMAND ...`, also those of the scripts beside it."""
import sys

try:
    from common.console import commands
except ModuleNotFoundError as missing:
    print(f"error: {missing}: run 'make demo' or, with Python 3.10, 'pip install -r requirements.txt' at the top",
          file=sys.stderr)
    sys.exit(2)


def launch(command: str | None = None) -> None:
    """Run a command of this package, by default the one that the first argument names, and leave the process."""
    commands.launch("out_of_core_training", command)


if __name__ == "__main__":
    launch()
