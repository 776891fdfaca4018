"""Tables of text for a terminal."""
import statistics
from collections.abc import Iterable, Sequence


def align(rows: Iterable[Iterable[object]], left: int = 1) -> str:
    """Lay out rows in columns two spaces apart; there are no spaces at the end of a line.

    Parameters
    ----------
    rows : iterable of iterables of one length
        Cells; what is no text is shown by `str`.
    left : int
        How many columns are flush left; the others are flush right.
    """
    lines = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(
        cell.ljust(width) if number < left else cell.rjust(width)
        for number, (cell, width) in enumerate(zip(line, widths, strict=True))).rstrip() for line in lines)


def with_deviation(values: Sequence[float], form: str) -> str:
    """Format a number by `form`; of several numbers their mean and standard deviation, "1.50 ± 0.71"."""
    if len(values) == 1:
        return format(values[0], form)
    return f"{statistics.mean(values):{form}} ± {statistics.stdev(values):{form}}"
