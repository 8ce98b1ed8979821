"""Who may import whom. An arrow more in `ALLOWED` is a decision, not a fix."""

import ast
import pathlib
import re
import subprocess
import sys
from typing import Iterator, NamedTuple

import pytest

ROOT = pathlib.Path(__file__).parent.parent

# Part of panoptic_tf -> the other parts it may import.
ALLOWED = {
    "_keras2": set(),
    "structures": set(),
    "datasets": {"structures"},
    "addons": {"structures"},
    "inputs": {"structures", "datasets", "addons"},
    "ops": {"structures"},
    "layers": {"structures", "ops"},
    "losses": {"structures", "ops", "layers"},
    "postprocess": {"structures", "ops", "layers"},
    "metrics": {"structures"},
    "backbones": {"structures", "ops", "layers"},
    "visualization": {"structures"},
    # Names of variables and files of weights: a task starts from them.
    "checkpoints": set(),
}
ALLOWED["systems"] = set(ALLOWED) - {"_keras2"}
# A copy of it runs .tflite files without the package.
ALLOWED["lite"] = set()
ALLOWED["serving"] = ALLOWED["systems"] - {"addons", "backbones", "losses", "checkpoints"}
ALLOWED["serving"].add("lite")
ALLOWED["evaluation"] = ALLOWED["systems"] | {"systems", "serving"}
ALLOWED["training"] = ALLOWED["evaluation"] | {"evaluation"}
ALLOWED["api"] = ALLOWED["training"] | {"training"}
ALLOWED["experiments"] = ALLOWED["api"] | {"api"}
ALLOWED["export"] = ALLOWED["experiments"] | {"experiments"}
# The package itself only hands out names.
ALLOWED[""] = {"_keras2", "serving", "api"}

BINARIES = ("experiments", "export")
WITH_MODEL_GARDEN = ("backbones", "systems", "evaluation", "training", "api", *BINARIES)
WITHOUT_TENSORFLOW = ("structures", "lite", "visualization", "_keras2", "")


class Import(NamedTuple):
    """One imported module, as written in `path`."""

    path: pathlib.Path
    line: int
    part: str
    module: str

    def __str__(self):
        return f"{self.path.relative_to(ROOT)}:{self.line} imports {self.module}"


def _sources() -> Iterator[pathlib.Path]:
    for folder in ("panoptic_tf", *BINARIES):
        yield from sorted((ROOT / folder).rglob("*.py"))


def _part(module: str) -> str:
    """`panoptic_tf.layers.fpn` -> `layers`; the package itself is ''."""
    return (module.split(".") + [""])[1]


def _module(path: pathlib.Path) -> str:
    relative = path.relative_to(ROOT).with_suffix("")
    names = [name for name in relative.parts if name != "__init__"]
    return ".".join(names if names[0] == "panoptic_tf" else ["panoptic_tf", *names])


def _is_module(name: str) -> bool:
    parts = name.split(".")
    parts = parts[1:] if len(parts) > 1 and parts[1] in BINARIES else parts
    path = ROOT.joinpath(*parts)
    return path.is_dir() or path.with_suffix(".py").exists()


def _imported(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0, "relative imports hide what is imported"
        for alias in node.names:
            name = f"{node.module}.{alias.name}"
            yield name if not name.startswith("panoptic_tf.") or _is_module(name) else node.module


def _walk_without_type_checking(tree: ast.AST) -> Iterator[ast.AST]:
    for node in ast.iter_child_nodes(tree):
        if not (isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")):
            yield node
            yield from _walk_without_type_checking(node)


@pytest.fixture(scope="module")
def imports():
    found = []
    for path in _sources():
        for node in _walk_without_type_checking(ast.parse(path.read_text(encoding="utf-8"))):
            for module in _imported(node):
                found.append(Import(path, node.lineno, _part(_module(path)), module))
    return found


def _report(violations) -> str:
    return "\n".join(str(violation) for violation in violations)


def test_every_part_has_its_rule():
    parts = {_part(_module(path)) for path in _sources()}
    assert parts <= set(ALLOWED), f"no rule for {sorted(parts - set(ALLOWED))}"


def test_parts_import_downward_only(imports):
    violations = [
        found
        for found in imports
        if found.module.startswith("panoptic_tf.")
        and _part(found.module) not in ALLOWED[found.part] | {found.part}
    ]
    assert not violations, _report(violations)


def test_rules_have_no_cycle():
    order = list(ALLOWED)
    for part, below in ALLOWED.items():
        if part:
            assert all(order.index(other) < order.index(part) for other in below), part


def _system(module: str) -> str:
    """Name of the system a module belongs to, '' for what systems share."""
    parts = module.split(".")
    is_system = len(parts) > 2 and (ROOT / "panoptic_tf" / "systems" / parts[2]).is_dir()
    return parts[2] if parts[1:2] == ["systems"] and is_system else ""


def test_no_system_imports_another(imports):
    violations = []
    for found in imports:
        importer = _module(found.path)
        # systems/__init__.py names every system, which registers it.
        if _system(found.module) and importer != "panoptic_tf.systems":
            own = importer.startswith("panoptic_tf.systems.") and _system(importer)
            if found.part == "systems" and own != _system(found.module):
                violations.append(found)
    assert not violations, _report(violations)


def test_inputs_and_lower_parts_know_no_model_garden(imports):
    violations = [
        found
        for found in imports
        if found.module.split(".")[0] in ("official", "orbit")
        and found.part not in WITH_MODEL_GARDEN
    ]
    assert not violations, _report(violations)


def test_one_module_imports_tensorflow_addons(imports):
    paths = {f.path for f in imports if f.module.split(".")[0] == "tensorflow_addons"}
    assert paths == {ROOT / "panoptic_tf" / "addons.py"}


def test_flags_stay_in_the_binaries(imports):
    violations = [
        found
        for found in imports
        if re.match(r"absl\.(flags|app)\b|official\.common\.flags\b|argparse\b", found.module)
        and found.part not in BINARIES
    ]
    assert not violations, _report(violations)


def test_numpy_parts_import_no_tensorflow(imports):
    violations = [
        found
        for found in imports
        if found.module.split(".")[0] == "tensorflow" and found.part in WITHOUT_TENSORFLOW
    ]
    assert not violations, _report(violations)


@pytest.mark.parametrize(
    "modules",
    ["panoptic_tf", "panoptic_tf.structures, panoptic_tf.experiments.cli", "panoptic_tf.lite"],
)
def test_importing_the_package_loads_no_tensorflow(modules):
    code = f"import sys, {modules}; print(sorted({{'tensorflow', 'absl'}} & set(sys.modules)))"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"


# Written so that the patterns do not match themselves.
MACHINE_PATTERNS = {
    "a folder of one machine": r"(?<![\w.])/(?:wor[k]|hom[e]|roo[t])/",
    "a number of a tracker": r"(?i)\b(?:issu[e]|ticke[t]) #?\d",
    "a package index": r"index[-]url|find[-]links|pypi\.(?!org/p)[a-z]",
}


@pytest.mark.parametrize("what", MACHINE_PATTERNS)
def test_nothing_names_the_machine_it_was_written_on(what):
    paths = [*_sources(), *(ROOT / "constraints").glob("*"), *ROOT.glob("*.cfg")]
    paths += [path for name in ("tests", "benchmarks") for path in (ROOT / name).rglob("*.py")]
    paths += [*ROOT.glob("*.toml"), *ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "Makefile"]
    pattern = re.compile(MACHINE_PATTERNS[what])
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in paths
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if pattern.search(line)
    ]
    assert not found, "\n".join(found)


def test_names_of_test_files_are_unique_outside_packages():
    names = {}
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        if not (path.parent / "__init__.py").exists():
            names.setdefault(path.name, []).append(str(path.relative_to(ROOT)))
    assert [paths for paths in names.values() if len(paths) > 1] == []
