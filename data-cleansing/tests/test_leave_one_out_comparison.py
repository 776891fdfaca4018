"""Scores beside the true change of the loss."""
import numpy as np

from data_cleansing import leave_one_out
from data_cleansing.leave_one_out_comparison import compare_with_retraining


def test_scores_agree_with_leaving_images_out():
    comparison = compare_with_retraining()
    table = {row[:2]: row[2:] for row in comparison.table()}
    for method in ("every_step", "final"):
        correlation, ratio = table[method, "exact"]
        assert correlation > 0.99 and 0.9 < ratio < 1.1
        assert table[method, "published"][0] < correlation and table[method, "published"][1] > 1.3


def test_the_command_writes_and_prints_them(tmp_path, capsys):
    leave_one_out.main(["-o", str(tmp_path / "out"), "--num-images", "24", "-c", "cpu"])
    assert "every_step  exact" in capsys.readouterr().out
    assert (tmp_path / "out" / "leave_one_out.png").read_bytes().startswith(b"\x89PNG")
    table = np.genfromtxt(tmp_path / "out" / "leave_one_out.csv", delimiter=",", names=True)
    assert len(table) == 24 and table.dtype.names[:3] == ("image", "true_change", "every_step_exact")
    assert np.corrcoef(table["true_change"], table["every_step_exact"])[0, 1] > 0.95
