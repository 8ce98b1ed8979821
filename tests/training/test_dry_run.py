"""One batch through everything, and what the network sees as pictures."""

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from small_systems import ROWS, draw_sample, get_params, make_batch, row_task, write_records

from panoptic_tf.inputs import normalize
from panoptic_tf.systems.config import Normalization
from panoptic_tf.training import dry_run, runner


@pytest.mark.parametrize("channel_order", ["RGB", "BGR"])
def test_the_normalisation_is_taken_back(channel_order):
    image = np.random.default_rng(0).integers(0, 256, (5, 4, 3)).astype(np.float32)
    settings = Normalization(channel_order=channel_order)
    info = tf.constant([[5, 4], [5, 4], [1, 1], [0, 0]], tf.float32)
    pixels = normalize.normalize_image(tf.constant(image), info, **settings.as_dict())
    np.testing.assert_array_equal(dry_run.denormalize(pixels.numpy(), settings), image)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.system)
def test_decoded_targets_are_the_truth(row):
    samples = [draw_sample(seed) for seed in range(2)]
    features, labels = make_batch(row_task(row), samples)
    params = get_params(row.experiment, row.overrides)
    if "stuff_area" in params.task.model.postprocessor.as_dict():
        params.override({"task": {"model": {"postprocessor": {"stuff_area": 1}}}})
    masks = dry_run._decode_targets(runner.build_task(params), {**features, **labels}, [64, 64])
    for number, sample in enumerate(samples):
        for name, found in masks.items():
            truth = getattr(sample, name).numpy()
            assert found[number].shape == truth.shape == (64, 64)
        truth, found = sample.category_mask.numpy(), masks["category_mask"][number]
        assert np.mean(truth == found) > 0.8
        pairs = set(zip(sample.instance_mask.numpy().flat, masks["instance_mask"][number].flat))
        assert len({b for a, b in pairs if a}) > 2


@pytest.mark.slow
@pytest.mark.usefixtures("shallow_deeplab")
def test_a_dry_run_leaves_pictures_and_nothing_else(tmp_path, caplog):
    row = ROWS[0]
    params = get_params(row.experiment, row.overrides)
    data = {"input_path": write_records(tmp_path), "global_batch_size": 2}
    params.override({"task": {"train_data": data, "validation_data": data}})
    params.override({"runtime": {"mixed_precision_dtype": "float32"}})
    folder = tmp_path / "model" / "dry_run"
    folder.mkdir(parents=True)
    for name in ("7.png", "mine.png"):
        (folder / name).touch()
    result = dry_run.dry_run(params, mode="train_and_eval", model_dir=str(tmp_path / "model"))
    assert sorted(p.name for p in folder.iterdir()) == ["0.png", "1.png", "mine.png"]
    assert sorted(p.name for p in (tmp_path / "model").iterdir()) == ["dry_run"]
    assert result.pictures == [str(tmp_path / "model" / "dry_run" / f"{n}.png") for n in (0, 1)]
    assert Image.open(result.pictures[0]).size[0] > 2 * 64
    assert result.shapes["image"] == "float32 [2, 64, 64, 3]"
    assert result.shapes["offsets"] == "float32 [2, 64, 64, 2]"
    everything, trained = result.num_parameters
    assert 0 < trained < everything
    assert set(result.seconds) == {"building", "compiling", "step", "evaluating"}
    assert set(result.losses) == {"training_loss", "loss/semantic", "loss/center", "loss/offset"}
    assert result.peak_bytes > 1 << 27
    text = "\n".join(result.lines())
    assert "float32 [2, 64, 64, 3]" in text and f"{everything:,}" in text
    assert "PQ" not in caplog.text


def test_a_dry_run_is_of_training(tmp_path):
    with pytest.raises(ValueError, match="of training, got mode 'eval'"):
        dry_run.dry_run(get_params(ROWS[0].experiment), mode="eval", model_dir=str(tmp_path))
