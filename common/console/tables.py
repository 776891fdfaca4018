"""Tables of text for a terminal."""
from collections.abc import Iterable


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
