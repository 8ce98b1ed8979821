"""What is installed is complete."""

import configparser
import pathlib
import re
import shutil
import subprocess
import sys
import zipfile

import pytest

ROOT = pathlib.Path(__file__).parent.parent
MAPPED = ("experiments", "export")
FOLDERS = ("panoptic_tf", *MAPPED)


def _installed_name(path: pathlib.Path) -> str:
    """Path of a source file inside the wheel."""
    relative = path.relative_to(ROOT)
    return str(relative if relative.parts[0] == "panoptic_tf" else "panoptic_tf" / relative)


@pytest.fixture(scope="module")
def setup_cfg():
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    return parser


def test_every_package_has_an_init():
    folders = {path.parent for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")}
    assert not [folder for folder in folders if not (folder / "__init__.py").exists()]


def test_constraints_pin_every_version():
    for path in (ROOT / "constraints").glob("*.txt"):
        lines = path.read_text(encoding="utf-8").splitlines()
        pins = [line for line in lines if line and not line.startswith("#")]
        assert all(re.fullmatch(r"[A-Za-z0-9_.-]+==[0-9][\w.]*", pin) for pin in pins), path
        names = [re.sub(r"[-_.]+", "-", pin.split("==")[0]).lower() for pin in pins]
        assert len(set(names)) == len(names), path


def normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.parametrize(
    "python, stack",
    [
        *((python, "tf215") for python in ("39", "310", "311")),
        *((python, "tf220") for python in ("310", "311", "312", "313")),
    ],
)
def test_constraints_pin_every_requirement(setup_cfg, python, stack):
    path = ROOT / "constraints" / f"py{python}-{stack}.txt"
    text = path.read_text(encoding="utf-8")
    pins = {
        normalized(name): pin for name, pin in re.findall(r"^([\w.-]+)==(.+)$", text, re.MULTILINE)
    }
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    (extras,) = re.findall(rf"^EXTRAS_{stack} := (\S+)$", makefile, re.MULTILINE)
    required = setup_cfg["options"]["install_requires"]
    for extra in {*extras.split(","), "edge"}:
        required += setup_cfg["options.extras_require"][extra]
    names = re.findall(r"^[\w.-]+", required, re.MULTILINE)
    assert {normalized(name) for name in names} <= set(pins)
    number = {"tf215": "2.15.", "tf220": "2.20."}[stack]
    for name in ("tensorflow", "tf-keras", "tf-models-official"):
        assert pins[name].startswith(number), name
    classifiers = setup_cfg["metadata"]["classifiers"]
    assert f"Python :: {python[0]}.{python[1:]}\n" in classifiers


def test_every_constraints_file_belongs_to_a_tested_stack():
    names = {path.name for path in (ROOT / "constraints").iterdir()}
    names.remove("docs.txt")
    assert len(names) == 7 and all(re.fullmatch(r"py3\d+-tf2(15|20)\.txt", n) for n in names)


def test_constraints_of_the_site_pin_its_extra(setup_cfg):
    text = (ROOT / "constraints" / "docs.txt").read_text(encoding="utf-8")
    pins = {normalized(name) for name in re.findall(r"^([\w.-]+)==", text, re.MULTILINE)}
    required = setup_cfg["options.extras_require"]["docs"]
    assert {normalized(name) for name in re.findall(r"^[\w.-]+", required, re.MULTILINE)} <= pins
    assert "tensorflow" not in pins


def test_the_package_is_marked_as_typed(setup_cfg):
    assert setup_cfg["options.package_data"]["panoptic_tf"].split() == ["py.typed"]
    assert (ROOT / "panoptic_tf" / "py.typed").exists()
    assert "Typing :: Typed" in setup_cfg["metadata"]["classifiers"]


@pytest.mark.slow
def test_wheel_holds_every_module_and_data_file(tmp_path):
    source = tmp_path / "source"
    for folder in FOLDERS:
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / folder, source / folder, ignore=ignore)
    for name in ("setup.cfg", "setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "pip", "wheel", ".", "--quiet", "--no-deps", "--no-index"]
    command += ["--no-build-isolation", "--wheel-dir", str(tmp_path)]
    subprocess.run(command, cwd=source, check=True)

    (wheel,) = tmp_path.glob("panoptic_tf-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (entry_points,) = [name for name in names if name.endswith("entry_points.txt")]
        assert b"panoptic-tf = panoptic_tf.experiments.cli:main" in archive.read(entry_points)
    files = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.is_file()]
    suffixes = (".py", ".json", ".yaml", ".html", ".css", ".js", ".c")
    expected = {_installed_name(path) for path in files if path.suffix in suffixes}
    assert expected <= names, f"not in the wheel: {sorted(expected - names)}"
    assert {"panoptic_tf/py.typed", "panoptic_tf/datasets/categories/coco_panoptic.json"} <= names
    outside = [name for name in names if not name.startswith(("panoptic_tf/", "panoptic_tf-"))]
    assert not outside
