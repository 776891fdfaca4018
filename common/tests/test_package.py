"""What pyproject.toml promises: a wheel with everything that a checkout has, and a reason for each dependency."""
import re
from pathlib import Path

import pytest
import tomli

import common
from common.machine.files import beside_scripts

ROOT = Path(common.__file__).parents[1]
PROJECT = tomli.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
WHEEL = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]
PACKAGES = {Path(path).name: Path(path) for path in WHEEL["packages"]}


def name_of(requirement):
    return re.match(r"[\w-]+", requirement)[0].lower()


def test_every_paper_has_its_package_and_its_command():
    assert set(PACKAGES) - {"common"} == {path.parent.name for path in ROOT.glob("[!.]*/*/__main__.py")}
    commands = {name: target.split(".")[0] for name, target in PROJECT["project"]["scripts"].items()}
    assert commands == {str(path.parent): package for package, path in PACKAGES.items() if package != "common"}


def test_what_lies_beside_the_scripts_lies_in_the_wheel():
    beside = {path.relative_to(ROOT) for path in ROOT.glob("[!.]*/*.cfg")} | {Path("d3net/hparams")}
    assert {Path(path) for path in WHEEL["force-include"]} == beside
    for source, target in WHEEL["force-include"].items():
        (package,) = (package for package, path in PACKAGES.items() if path.parent == Path(source).parent)
        # The builder takes `d3net/` off every path, as it has to off those of the package d3net/d3net.
        assert target == f"{'d3net/' if package == 'd3net' else ''}{package}/{Path(source).name}"
        assert beside_scripts(package, Path(source).name) == ROOT / source


@pytest.mark.parametrize("extra", PROJECT["project"]["optional-dependencies"])
def test_every_extra_has_its_requirements_file(extra):
    name = "requirements.txt" if extra == "test" else f"requirements-{extra}.txt"
    assert (ROOT / name).read_text().splitlines()[-1] == f"-e .[{extra}]"


def test_every_dependency_is_pinned_and_has_a_reason():
    table = (ROOT / "README.md").read_text(encoding="utf-8").split("## Dependencies")[1].split("\n## ")[0].lower()
    extras = PROJECT["project"]["optional-dependencies"]
    for requirement in [*PROJECT["project"]["dependencies"], *sum(extras.values(), [])]:
        assert "==" in requirement
        name = name_of(requirement)
        assert re.search(rf"\b{name}\b", table) or name.startswith("nvidia-"), name


def test_every_dependency_is_imported():
    modules = {"pillow": "PIL", "pyyaml": "yaml", "scikit-learn": "sklearn", "opencv-python-headless": "cv2"}
    sources = "\n".join(path.read_text(encoding="utf-8") for path in ROOT.glob("[!.]*/**/*.py"))
    for name in map(name_of, PROJECT["project"]["dependencies"]):
        module = modules.get(name, name)
        used = re.search(rf"^\s*(?:import|from) {module}\b|find_spec\(\"{module}\"\)", sources, re.MULTILINE)
        assert used or name == "protobuf", name    # at the version that nnabla reads
