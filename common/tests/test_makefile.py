"""The set-up that `make` does: which Python it takes, and when it installs. Nothing is downloaded here."""
import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAKE = shutil.which("make")

# Answers like a Python 3.10 to what the Makefile asks of one. Installing fails where there is a file `no-network`.
PYTHON = """#!/bin/sh
echo "$*" >>calls
case "$*" in
    -c*) echo "$0" ;;
    "-m venv"*) mkdir -p .venv/bin && cp "$0" .venv/bin/python ;;
    *"pip --version") echo "pip 23.0 from somewhere (python 3.10)" ;;
    *" install "*) [ ! -e no-network ] ;;
esac
"""
OTHER_PYTHON = "#!/bin/sh\nexit 1\n"
BROKEN_SHIM = "#!/bin/sh\necho 'pyenv: python3.10: command not found' >&2\nexit 127\n"
# Knows a Python only after it has installed it.
UV = """#!/bin/sh
case "$*" in
    "python find"*) [ -e uv-python ] && echo "$PWD/uv-python" ;;
    "python install"*) cp uv-offers uv-python ;;
esac
"""

pytestmark = pytest.mark.skipif(MAKE is None, reason="there is no make on this machine")


@pytest.fixture
def checkout(tmp_path):
    """Make a folder with what the set-up reads, and with a space in its name."""
    folder = tmp_path / "a checkout"
    shutil.copytree(ROOT / "tools", folder / "tools")
    shutil.copy(ROOT / "Makefile", folder)
    for name in ("requirements.txt", "requirements-openvino.txt", "requirements-distributed.txt", "pyproject.toml"):
        (folder / name).touch()
    programs = folder / "programs"
    programs.mkdir()
    for name in ("sh", "rm", "cp", "mkdir", "touch"):
        (programs / name).symlink_to(shutil.which(name))
    return folder


def program(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def make(checkout, *arguments):
    """Run `make` where only the programs of the checkout are found."""
    environment = {"PATH": str(checkout / "programs"), "HOME": str(checkout / "home")}
    return subprocess.run([MAKE, *arguments], cwd=checkout, env=environment, capture_output=True, text=True, timeout=60)


def installs(checkout):
    return sum(" install " in line for line in (checkout / "calls").read_text().splitlines())


def assert_one_line(done, *words):
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert all(word in done.stderr for word in words), done.stderr


@pytest.mark.parametrize("shim", [None, BROKEN_SHIM, OTHER_PYTHON])
def test_no_python_is_told_in_one_line(shim, checkout):
    if shim:
        program(checkout / "programs" / "python3.10", shim)
    assert_one_line(make(checkout, "test"), "no Python 3.10", "nnabla", "pyenv install 3.10", "uv python install 3.10")
    assert not (checkout / ".venv").exists()


@pytest.mark.parametrize("named", ["other", "missing"])
def test_named_python_must_be_3_10(named, checkout):
    program(checkout / "programs" / "other", OTHER_PYTHON)
    program(checkout / "programs" / "python3.10", PYTHON)
    assert_one_line(make(checkout, "test", f"PYTHON={named}"), f"PYTHON={named}", "3.10", "nnabla")
    assert make(checkout, "test").returncode == 0
    assert make(checkout, "test", f"PYTHON={named}").returncode == 2    # a set-up from before is no excuse


def test_named_python_is_taken(checkout):
    python = program(checkout / "else where" / "python", PYTHON)
    done = make(checkout, "test", f"PYTHON={python}")
    assert (done.returncode, done.stderr) == (0, "")


def test_pyenv_is_searched_past_a_failing_shim(checkout):
    program(checkout / "programs" / "python3.10", BROKEN_SHIM)
    versions = checkout / "home" / ".pyenv" / "versions"
    program(versions / "3.10.2" / "bin" / "python3.10", BROKEN_SHIM)
    program(versions / "3.10.4" / "bin" / "python3.10", PYTHON)
    done = make(checkout, "test")
    assert (done.returncode, done.stderr) == (0, "")


def test_uv_installs_a_python(checkout):
    program(checkout / "programs" / "uv", UV)
    program(checkout / "uv-offers", PYTHON)
    done = make(checkout, "test")
    assert (done.returncode, done.stderr) == (0, "")


def test_installs_once_and_again_when_requirements_change(checkout):
    program(checkout / "programs" / "python3.10", PYTHON)
    for target in ("test", "lint", "demo"):
        assert make(checkout, target).returncode == 0
    assert installs(checkout) == 1
    installed = (checkout / ".venv" / "installed").stat().st_mtime
    os.utime(checkout / "requirements.txt", (installed + 10, installed + 10))
    assert make(checkout, "test").returncode == 0
    assert installs(checkout) == 2


def test_failed_installation_is_tried_again(checkout):
    program(checkout / "programs" / "python3.10", PYTHON)
    (checkout / "no-network").touch()
    assert make(checkout, "test").returncode == 2
    assert not (checkout / ".venv" / "installed").exists()
    (checkout / "no-network").unlink()
    assert make(checkout, "test").returncode == 0
    assert installs(checkout) == 2


def test_other_environment_is_replaced(checkout):
    program(checkout / ".venv" / "bin" / "python", OTHER_PYTHON)
    program(checkout / "programs" / "python3.10", PYTHON)
    assert make(checkout, "test").returncode == 0
    assert "-m venv --clear .venv" in (checkout / "calls").read_text()


def test_help_needs_no_python(checkout):
    done = make(checkout)
    assert (done.returncode, done.stderr) == (0, "")
    assert all(f"make {target}" in done.stdout for target in ("demo", "tour", "test", "lint", "benchmark", "clean"))


def test_ci_checks_style_types_and_the_wheel_and_runs_the_tests(checkout):
    program(checkout / "programs" / "python3.10", PYTHON)
    program(checkout / "tools" / "check_wheel.sh", '#!/bin/sh\necho "wheel $*" >>calls\n')
    shutil.copytree(ROOT / ".ci", checkout / ".ci")
    for name in ("bash", "dirname", "make"):
        (checkout / "programs" / name).symlink_to(shutil.which(name))
    environment = {"PATH": str(checkout / "programs"), "HOME": str(checkout / "home")}
    done = subprocess.run([checkout / ".ci" / "run"], cwd="/", env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    calls = (checkout / "calls").read_text().splitlines()
    calls = [call for call in calls if call.startswith(("-m ruff", "-m py", "wheel"))]
    assert calls == ["-m ruff check", "-m pyright --pythonpath .venv/bin/python", "wheel .venv/bin/python",
                     "-m pytest -n auto --dist loadfile"]
