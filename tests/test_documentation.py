"""The pages hold together: links, navigation, names of experiments, published numbers."""

import ast
import itertools
import pathlib
import re
import runpy
import sys
import types

import pytest
import yaml

ROOT = pathlib.Path(__file__).parent.parent
DOCS = ROOT / "docs"
HOOKS = runpy.run_path(str(DOCS / "hooks.py"))
MKDOCS = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))

PAGES = sorted(DOCS.rglob("*.md"))
LINKING = [*PAGES, DOCS / "llms.txt", *ROOT.glob("*.md"), *ROOT.glob(".github/**/*.md")]
SYSTEM_PAGES = sorted((DOCS / "systems").glob("[!i]*.md"))

FENCE = re.compile(r"^ *(```|~~~).*?^ *\1", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\(([^)\s]+)\)")
WORDS_OF_EXPERIMENTS = (
    r"(?:panoptic_(?:deeplab|fpn|fcn)|deeplabv3plus|mask_rcnn|semantic_fpn|mask2former|maskformer"
    r"|eomt)_"
)


def name_of(path):
    return str(path.relative_to(ROOT))


def prose(path):
    """A page without its blocks of code."""
    return FENCE.sub("", path.read_text(encoding="utf-8"))


def anchors(path):
    """The anchors of a page's headings, as forges make them."""
    found = []
    for heading in re.findall(r"^#+ (.+)$", prose(path), flags=re.MULTILINE):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
        anchor = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
        found.append(f"{anchor}-{found.count(anchor)}" if anchor in found else anchor)
    return found


def navigation(items):
    """Pages of the site's navigation, in order."""
    for item in items:
        content = item if isinstance(item, str) else next(iter(item.values()))
        yield from [content] if isinstance(content, str) else navigation(content)


def expand(name):
    """`a_{b,c}` -> `a_b`, `a_c`."""
    parts = [part.split(",") for part in re.split(r"[{}]", name)]
    return ["".join(choice) for choice in itertools.product(*parts)]


@pytest.mark.parametrize("path", LINKING, ids=name_of)
def test_links_and_anchors_exist(path):
    for link in LINK.findall(prose(path)):
        if re.match(r"[a-z]+:", link):
            continue
        target, _, anchor = link.partition("#")
        page = (path.parent / target).resolve() if target else path
        assert page.exists(), f"{name_of(path)}: {link}"
        if anchor:
            assert anchor in anchors(page), f"{name_of(path)}: {link}"


def test_anchors_are_those_of_forges(tmp_path):
    page = tmp_path / "page.md"
    headings = "# Where PQ is 0", "## As `panoptic_png`", "## As `panoptic_png`"
    page.write_text("\n\n```sh\n# no heading\n```\n\n".join(headings))
    assert anchors(page) == ["where-pq-is-0", "as-panoptic_png", "as-panoptic_png-1"]


def test_every_page_is_in_the_navigation_once():
    listed = list(navigation(MKDOCS["nav"]))
    outside = [place for place in HOOKS["OUTSIDE"].values() if place.endswith(".md")]
    assert sorted(listed) == sorted([str(page.relative_to(DOCS)) for page in PAGES] + outside)


def test_every_page_is_in_the_list_for_language_models():
    text = (DOCS / "llms.txt").read_text(encoding="utf-8")
    listed = {(DOCS / link).resolve() for link in LINK.findall(text)}
    outside = {ROOT / name for name in HOOKS["OUTSIDE"] if name.endswith(".md")}
    assert listed == {*PAGES, *outside}


@pytest.mark.parametrize(
    "page, link, expected",
    [
        ("data.md", "[a](zoo.md#b)", "[a](zoo.md#b)"),
        ("data.md", "![a](images/shapes.png)", "![a](images/shapes.png)"),
        ("data.md", "[a](../README.md#install)", "[a](tour.md#install)"),
        ("systems/panoptic_fpn.md", "[a](../../LICENSE)", "[a](../LICENSE.txt)"),
        ("tour.md", "![a](docs/images/shapes.png)", "![a](images/shapes.png)"),
        ("tour.md", "[a](CONTRIBUTING.md)", "[a](contributing.md)"),
        ("security.md", "[a](docs/zoo.md#b)", "[a](zoo.md#b)"),
        ("results.md", "[the scripts](../benchmarks/references)", "the scripts"),
        ("data.md", "[a](https://example.org/README.md)", "[a](https://example.org/README.md)"),
        ("llms.txt", "[a](../README.md)", "[a](tour.md)"),
        ("data.md", "[a](#b)", "[a](#b)"),
        ("data.md", "losses[name](targets)", "losses[name](targets)"),
    ],
)
def test_links_of_the_repository_become_links_of_the_site(page, link, expected):
    assert HOOKS["rewrite_links"](f"In {link}, {link}.", page) == f"In {expected}, {expected}."


def test_examples_of_docstrings_are_code(monkeypatch):
    griffe = types.SimpleNamespace(Extension=object, Object=object)
    monkeypatch.setitem(sys.modules, "griffe", griffe)
    fence_example = runpy.run_path(str(DOCS / "examples.py"))["fence_example"]
    before, after = "Trains.\n\nExample:\n", "\nRaises:\n"
    code = "    run(\n        1\n    )\n\n    end()\n"
    expected = f"{before}    ```python\n{code}    ```\n{after}"
    assert fence_example(f"{before}{code}{after}") == expected
    assert fence_example("No example.") == "No example."


def defined_names(path):
    """Functions, classes and variables at the top of a module."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            yield node.name


def test_reference_names_what_there_is():
    text = (DOCS / "api.md").read_text(encoding="utf-8")
    names = re.findall(r"^::: (\S+)$", text, flags=re.MULTILINE)
    assert len(names) > 20
    for name in names:
        module, _, attribute = name.rpartition(".")
        assert attribute in defined_names(ROOT / f"{module.replace('.', '/')}.py"), name


def test_reference_has_all_that_the_package_exports():
    import panoptic_tf

    text = (DOCS / "api.md").read_text(encoding="utf-8")
    headings = re.findall(r"^::: \S+\.(\w+)\n +options: {heading: panoptic_tf\.\1,", text, re.M)
    assert sorted(headings) == sorted(set(panoptic_tf.__all__) - {"__version__"})


@pytest.mark.parametrize("path", [ROOT / "README.md", DOCS / "zoo.md", *SYSTEM_PAGES], ids=name_of)
def test_experiments_exist(path):
    from official.core import exp_factory

    from panoptic_tf import systems  # noqa: F401  (registers the experiments)

    known = set(exp_factory._REGISTERED_CONFIGS)
    named = re.findall(rf"`({WORDS_OF_EXPERIMENTS}[\w{{}},]+)`", path.read_text(encoding="utf-8"))
    assert named
    for name in named:
        assert set(expand(name)) <= known, name


@pytest.mark.parametrize("path", SYSTEM_PAGES, ids=name_of)
def test_published_numbers_are_those_of_the_experiments(path):
    section = path.read_text(encoding="utf-8").partition("## Published PQ")[2].partition("\n## ")[0]
    numbers = re.findall(r"\b\d\d\.\d\b", section)
    source = ROOT / "panoptic_tf" / "systems" / path.stem / "experiments.py"
    documented = ast.parse(source.read_text(encoding="utf-8"))
    docstrings = [ast.get_docstring(documented)]
    docstrings += [ast.get_docstring(n) for n in documented.body if isinstance(n, ast.FunctionDef)]
    assert len(numbers) > 5
    assert set(numbers) <= set(re.findall(r"\b\d\d\.\d\b", " ".join(filter(None, docstrings))))


def test_every_system_has_a_page():
    folders = {path.parent.name for path in (ROOT / "panoptic_tf" / "systems").glob("*/task.py")}
    assert {page.stem for page in SYSTEM_PAGES} == folders


@pytest.mark.parametrize("path", sorted(ROOT.glob(".github/workflows/*.yml")), ids=name_of)
def test_workflows_call_targets_of_the_makefile_only(path):
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    jobs = yaml.safe_load(path.read_text(encoding="utf-8"))["jobs"]
    commands = [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]
    assert commands
    for command in commands:
        target = re.fullmatch(r"make (\w+)(?: [A-Z]+=\S+| [A-Z]+=\$\{\{ [\w.]+ \}\})*", command)
        assert target, command
        assert re.search(rf"^{target[1]}:", makefile, flags=re.MULTILINE), command


def test_workflows_test_every_stack():
    jobs = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))["jobs"]
    for row in jobs["test"]["strategy"]["matrix"]["include"]:
        assert (
            ROOT / f"constraints/py{row['python'].replace('.', '')}-{row['stack']}.txt"
        ).exists()


@pytest.mark.parametrize("path", sorted(ROOT.glob(".github/ISSUE_TEMPLATE/[!c]*.yml")), ids=name_of)
def test_issue_forms_ask_something(path):
    form = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert {"name", "description", "body"} <= set(form)
    assert any(item["type"] == "textarea" for item in form["body"])


def test_citation_is_of_this_version():
    import panoptic_tf

    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == panoptic_tf.__version__
    assert citation["authors"] == [{"name": "The panoptic_tf authors"}]


def test_changelog_begins_with_what_is_not_released():
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    first, *released = re.findall(r"^## (.+)$", text, flags=re.MULTILINE)
    assert first == "Unreleased"
    assert all(re.fullmatch(r"\d+\.\d+\.\d+ - \d{4}-\d\d-\d\d", title) for title in released)


def test_containers_install_the_tested_versions():
    text = (ROOT / "docker" / "Dockerfile").read_text(encoding="utf-8")
    constraints = ROOT / re.search(r"COPY (constraints/\S+)", text)[1]
    pins = constraints.read_text(encoding="utf-8").splitlines()
    assert re.search(r"tensorflow\[and-cuda\]==(\S+)\"", text)[1] in [
        pin.partition("==")[2] for pin in pins if pin.startswith("tensorflow==")
    ]
    installations = re.findall(r"^RUN pip install.*", text, re.M)
    assert installations and all("-c /constraints.txt" in line for line in installations)
    ignored = (ROOT / "docker" / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    for names in re.findall(r"^COPY (?!--from)(.+) \S+$", text, flags=re.MULTILINE):
        assert {f"!{name}" for name in names.split()} <= set(ignored)
