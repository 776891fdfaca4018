"""The tools keep the conventions of all commands: what a user does wrong is one line, with its exit status."""
import importlib.util
import re
from pathlib import Path

import h5py
import numpy as np
import pytest

TOOLS = Path(__file__).resolve().parents[2] / "tools"


@pytest.fixture
def main_of(monkeypatch):
    """Load the `main` of a tool, which finds its neighbours as a script does."""
    def load(name):
        monkeypatch.syspath_prepend(TOOLS)
        spec = importlib.util.spec_from_file_location(f"tools_{name}", TOOLS / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module.main
    return load


@pytest.mark.parametrize("path", sorted(TOOLS.glob("*.py")), ids=lambda path: path.stem)
def test_every_tool_ends_as_commands_do(path):
    text = path.read_text(encoding="utf-8")
    if "__main__" in text and path.stem != "kill_trials":    # which imports nothing of what it kills
        assert "cli.run(main)" in text and "cli.parser(__doc__" in text


@pytest.mark.parametrize("name, arguments, message", [
    ("make_song", ["text/song.wav"], r"text: File exists"),
    ("make_song", ["song.wav", "--seconds", "nan"], r"argument --seconds: 'nan' is not a number above 0"),
    ("make_song", ["song.wav", "--second", "1"], r"unrecognized arguments: --second 1"),
    ("score_songs", ["x-umx", "xumx-small", "empty"], r"empty: no mixture in it \(mixture.wav, ...\)"),
    ("score_songs", ["x-umx", "xumx-small", "none"], r"none: No such file or directory"),
    ("ship_weights", ["empty", "target"], r"empty: no weights of a training here"),
])
def test_wrong_arguments_are_one_line(name, arguments, message, main_of, run_main, own_folder):
    (own_folder / "text").write_text("")
    (own_folder / "empty").mkdir()
    status, out, err = run_main(main_of(name), *arguments)
    assert status in (1, 2) and not out and re.fullmatch(f"error: {message}( .see --help.)?\n", err), (status, err)
    assert {path.name for path in own_folder.iterdir()} == {"text", "empty"}


def test_weights_are_shipped_in_half_the_room(main_of, run_main, own_folder):
    (own_folder / "run").mkdir()
    values = {"W": np.linspace(-1, 1, 512).reshape(16, 32), "b": np.linspace(0, 1, 5)}
    with h5py.File(own_folder / "run" / "best_xumx.h5", "w") as file:
        for name, value in values.items():
            file.create_dataset(f"scope/{name}", data=value, dtype=np.float32).attrs["need_grad"] = True
    for name in ("config.json", "params_best.h5", "log.csv"):
        (own_folder / "run" / name).write_text("{}")
    assert run_main(main_of("ship_weights"), "run", "a/b")[0] == 0
    assert {path.name for path in (own_folder / "a" / "b").iterdir()} == {"best_xumx.h5", "config.json"}
    with h5py.File(own_folder / "a" / "b" / "best_xumx.h5") as file:
        assert (file["scope/W"].dtype, file["scope/b"].dtype) == (np.float16, np.float32)
        assert file["scope/W"].attrs["need_grad"]
        np.testing.assert_allclose(file["scope/W"][()], values["W"], atol=2**-11)
        np.testing.assert_array_equal(file["scope/b"][()], values["b"].astype(np.float32))
