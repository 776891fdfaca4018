"""Tables of text."""
import pytest

from common.console.tables import align


def test_columns_are_as_wide_as_their_widest_cell():
    assert align([("layer", "kB"), ("conv", 1.5), ("a", "10.25")]) == "layer     kB\nconv     1.5\na      10.25"


def test_first_columns_are_flush_left():
    assert align([("a", "bbb", 1), ("aa", "b", 10)], left=2) == "a   bbb   1\naa  b    10"


def test_no_line_ends_in_spaces():
    assert align([("a", "long"), ("b", "")], left=2).splitlines() == ["a  long", "b"]


def test_rows_of_different_lengths_are_an_error():
    with pytest.raises(ValueError, match="shorter|longer"):
        align([("a", "b"), ("c",)])
