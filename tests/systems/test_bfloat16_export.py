"""A SavedModel that computes in bfloat16: layers alone, weights and answers as in float32."""

import numpy as np
import pytest
import tensorflow as tf
from official.core import train_utils
from small_systems import ROWS, draw_sample, get_params

import panoptic_tf
from panoptic_tf.serving.predictor import SavedModelRunner
from panoptic_tf.training import run_folder, runner


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory):
    """A run of random weights that has not been trained."""
    folder = str(tmp_path_factory.mktemp("run"))
    params = get_params(ROWS[0].experiment, ROWS[0].overrides)
    task = runner.build_task(params)
    with tf.distribute.OneDeviceStrategy("CPU:0").scope():
        trainer = train_utils.create_trainer(params, task, train=False, evaluate=False)
    trainer.checkpoint.save(f"{folder}/ckpt")
    run_folder.write_params(params, folder, ROWS[0].experiment)
    return folder


def convolutions(signature):
    """Dtype of every convolution, by the layer's name."""
    functions = signature.graph.as_graph_def().library.function
    nodes = [node for function in functions for node in function.node_def]
    return {n.name: tf.as_dtype(n.attr["T"].type) for n in nodes if n.op == "Conv2D"}


@pytest.mark.slow
def test_layers_compute_in_bfloat16(model_dir, tmp_path):
    folder = panoptic_tf.export(model_dir, tmp_path, precision="bfloat16", warmup_batch_sizes=())
    assert tf.keras.mixed_precision.global_policy().name == "float32"
    exported = SavedModelRunner(folder)
    assert exported.info.precision == "bfloat16"
    signature = exported.signatures["image_bytes"]
    found = convolutions(signature)
    logits = {name for name in found if name.endswith("/predictor/Conv2D")}
    assert len(logits) == 3 and {found.pop(name) for name in logits} == {tf.float32}
    assert len(found) > 20 and set(found.values()) == {tf.bfloat16}
    assert {variable.dtype for variable in signature.variables} == {tf.float32}
    dtypes = {key: spec.dtype for key, spec in signature.structured_outputs.items()}
    assert dtypes.pop("segment_score") == tf.float32 and dtypes.pop("valid") == tf.bool
    assert set(dtypes.values()) == {tf.int32}
    answer = exported(draw_sample(1).image.numpy().astype(np.uint8))
    assert answer["category_mask"].shape == (64, 64)
    assert 0 <= answer["segment_score"].min() <= answer["segment_score"].max() <= 1
