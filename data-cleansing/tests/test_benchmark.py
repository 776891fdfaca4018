"""The benchmark: our parts and the published loops agree, on the device that a flag names."""
import json

import pytest

from data_cleansing import benchmark


@pytest.mark.slow
def test_parts_agree_with_the_published_loops(run_main, tmp_path):
    numbers = tmp_path / "numbers.json"
    status, out, _ = run_main(benchmark.main, "-c", "cpu", "-d", "0", "--batch-size", 2, "--rounds", 1, "-o", numbers)
    assert status == 0 and out.startswith("computing on cpu, batches of 2\n")
    differences = json.loads(numbers.read_text())["difference from the published loops"]
    assert max(row["of the largest value"] for row in differences.values()) < 1e-3
