"""The three commands on a drawn LabelMe folder, with a training of a few steps."""

import json

import numpy as np
import pytest
import yaml
from PIL import Image

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Twelve images of 64x64 with a bright square each, sky above."""
    folder = tmp_path_factory.mktemp("labelme")
    rng = np.random.default_rng(0)
    for number in range(12):
        top, left = (int(v) for v in rng.integers(10, 40, 2))
        pixels = rng.integers(0, 80, [64, 64, 3], np.uint8)
        pixels[top : top + 20, left : left + 20] += 150
        Image.fromarray(pixels).save(folder / f"{number}.png")
        square = [[left, top], [left + 20, top + 20]]
        shapes = [
            {"label": "sky", "points": [[0, 0], [64, 8]], "shape_type": "rectangle"},
            {"label": "square", "points": square, "shape_type": "rectangle"},
        ]
        content = {"shapes": shapes, "imagePath": f"{number}.png"}
        (folder / f"{number}.json").write_text(json.dumps(content))
    return folder


def test_three_commands(exported, tmp_path, panoptic_tf_command):
    own = tmp_path / "own"
    arguments = ("init", f"--source={exported}", f"--output_dir={own}", "--stuff=sky")
    output = panoptic_tf_command(*arguments)
    assert "recognised labelme: 12 JSON files" in output
    assert f"panoptic-tf train --config_file={own}/train.yaml" in output
    config = yaml.safe_load((own / "train.yaml").read_text())
    assert config["experiment"] == "panoptic_deeplab_shapes"
    assert "is as it was" in panoptic_tf_command(*arguments)

    few = "trainer.train_steps=10,trainer.steps_per_loop=5,trainer.summary_interval=5"
    panoptic_tf_command("train", f"--config_file={own}/train.yaml", f"--params_override={few}")
    output = panoptic_tf_command("report", f"--model_dir={own}/run")
    assert str(own / "run" / "report" / "report.html") in output
    metrics = json.loads((own / "run" / "report" / "metrics.json").read_text())
    assert metrics["step"] == 10
    assert 0 <= metrics["PQ"] <= 100
    assert (own / "run" / "report" / "report.html").stat().st_size > 10_000


@pytest.mark.parametrize(
    "arguments, texts",
    [
        (["init", "--output_dir={tmp}/own"], ["give --source"]),
        (["init", "--source={tmp}/nope", "--output_dir={tmp}/own"], ["no such file or folder"]),
        (["init", "--source={tmp}", "--output_dir={tmp}/own"], ["Looked for:", "labelme"]),
        (["report", "--model_dir={tmp}"], ["{tmp}", "no checkpoint"]),
        (["report"], ["missing: --model_dir"]),
    ],
)
def test_wrong_input_is_said_in_few_lines(arguments, texts, tmp_path, panoptic_tf_command):
    output = panoptic_tf_command(*(a.format(tmp=tmp_path) for a in arguments), expect=1)
    assert "Traceback" not in output
    for text in texts:
        assert text.format(tmp=tmp_path) in output
    assert not (tmp_path / "own").exists()
