"""The notebooks of docs/notebooks, run as scripts in an empty folder; needs no Jupyter."""

import ast
import json
import os
import pathlib
import re
import subprocess
import sys

import pytest

NOTEBOOKS = pathlib.Path(__file__).parents[2] / "docs" / "notebooks"
LEFT_BEHIND = {
    "own_data": (
        "own_data/mydata/train.yaml",
        "own_data/mydata/records/dataset_info.json",
        "own_data/mydata/run/params.yaml",
        "own_data/mydata/run/report/metrics.json",
        "own_data/mydata/run/report/report.html",
    ),
    "import_export_serve": (
        "import/imported/params.yaml",
        "import/saved_model/1/saved_model.pb",
        "import/saved_model/1/assets/dataset_info.json",
        "import/model.tflite",
        "import/panoptic_tf_lite.py",
    ),
}
MAX_IMAGE_BYTES = 60_000

each_notebook = pytest.mark.parametrize(
    "name", sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb"))
)


def cells_of(name, cell_type):
    content = json.loads((NOTEBOOKS / f"{name}.ipynb").read_text(encoding="utf-8"))
    assert (content["nbformat"], content["nbformat_minor"]) == (4, 5)
    return [cell for cell in content["cells"] if cell["cell_type"] == cell_type]


def as_python(cell):
    """The code of a cell; a line that begins with `!` runs in a shell, as IPython would run it."""

    def run_in_shell(match):
        # IPython puts a space where a line goes on.
        command = re.sub(r"\\\n *", " ", match[1])
        return f"subprocess.run({command!r}, shell=True, check=True)"

    code = "".join(cell["source"])
    return re.sub(r"^!((?:.*\\\n)*.*)", run_in_shell, code, flags=re.MULTILINE)


def shows_something(code):
    """Whether a cell runs a command, prints, or ends with an expression."""
    tree = ast.parse(code)
    called = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    return bool(called & {"subprocess.run", "print"}) or isinstance(tree.body[-1], ast.Expr)


def test_lines_for_the_shell_become_calls():
    code = as_python({"source": ["a = 1\n", "!one 'x' \\\n", "    --two\n", "b = a != 2\n", "!x"]})
    expected = "subprocess.run({!r}, shell=True, check=True)"
    assert code.splitlines() == [
        *("a = 1", expected.format("one 'x'  --two"), "b = a != 2", expected.format("x"))
    ]


@each_notebook
def test_every_cell_compiles_and_has_its_outputs(name):
    for number, cell in enumerate(cells_of(name, "code"), start=1):
        code = as_python(cell)
        compile(code, f"{name}, cell {number}", "exec")
        assert cell["execution_count"] == number, "run all cells in order, then save"
        assert bool(cell["outputs"]) == shows_something(code), code
        assert all(output["output_type"] != "error" for output in cell["outputs"]), code


@each_notebook
def test_outputs_are_small(name):
    for cell in cells_of(name, "code"):
        for output in cell["outputs"]:
            assert len(output.get("text", [])) <= 20, "".join(cell["source"])
            for kind, values in output.get("data", {}).items():
                assert len("".join(values)) < MAX_IMAGE_BYTES, (kind, cell["source"])


@each_notebook
def test_links_exist(name):
    text = "\n".join("".join(cell["source"]) for cell in cells_of(name, "markdown"))
    links = [link for link in re.findall(r"\]\(([^)#\s]+)", text) if "://" not in link]
    assert links
    for link in links:
        assert (NOTEBOOKS / link).exists(), link


@pytest.mark.slow
@each_notebook
def test_notebook_runs_and_leaves_its_files(name, tmp_path):
    script = tmp_path / "notebook.py"
    code = [as_python(cell) for cell in cells_of(name, "code")]
    script.write_text("\n\n".join(["import subprocess", *code]), encoding="utf-8")
    environment = {
        **os.environ,
        "PATH": f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    done = subprocess.run(
        [sys.executable, script.name],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    for path in LEFT_BEHIND[name]:
        assert (tmp_path / "runs" / path).stat().st_size > 0, path
    assert {path.name for path in tmp_path.iterdir()} == {"notebook.py", "runs"}
    if name == "own_data":
        own = tmp_path / "runs" / "own_data" / "mydata"
        assert f"next: panoptic-tf train --config_file={own}/train.yaml" in done.stdout
        metrics = json.loads((own / "run" / "report" / "metrics.json").read_text())
        assert metrics["step"] == 100
        assert 0 <= metrics["PQ"] <= 100 and 50 < metrics["PQ_ceiling"] <= 100
