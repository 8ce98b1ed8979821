import numpy as np
import pytest
import tensorflow as tf

from panoptic_tf.backbones import factory


def _run(backbone, size=64):
    inputs = tf.keras.Input([size, size, 3])
    model = tf.keras.Model(inputs, backbone(inputs))
    return model, model(np.zeros([1, size, size, 3], np.float32))


def test_unknown_names_list_the_known_ones():
    with pytest.raises(ValueError, match="Unknown backbone 'resnet51'; known: .*resnet52"):
        factory.build_backbone("resnet51")


def test_a_name_is_registered_once():
    with pytest.raises(ValueError, match="'resnet50' is registered already"):
        factory.register_backbone("resnet50")


def test_official_names_are_stable_whatever_was_built_before():
    names = []
    for _ in range(2):
        tf.keras.layers.Conv2D(1, 1)  # takes a number of Keras's process-wide count
        backbone = factory.build_backbone("mobilenetv3_small", output_stride=16)
        model, outputs = _run(backbone)
        names.append([v.name for v in model.variables])
    assert names[0] == names[1] and len(set(names[0])) == len(names[0])
    assert names[0][0] == "backbone/conv2dbn_block/conv2d/kernel:0"
    # With output stride 16 the last stage is at 1/16 and stage 4 is not given out.
    assert {k: v.shape[1:] for k, v in outputs.items()} == {
        "2": (16, 16, 16),
        "3": (8, 8, 24),
        "5": (4, 4, 96),
    }
    assert backbone.output_strides == {"2": 4, "3": 8, "5": 16}
    assert backbone.output_channels == {"2": 16, "3": 24, "5": 96}


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, options, strides",
    [
        ("mobilenetv1", {}, [4, 8, 16, 32]),
        ("mobilenetv2", {}, [4, 8, 16, 32]),
        ("mobilenetv2", {"output_stride": 8}, [4, 8]),
        ("mobilenetv3_large", {}, [4, 8, 16, 32]),
        ("mobilenetv3_edgetpu", {}, [4, 8, 16, 32]),
        ("mobiledet_cpu", {}, [4, 8, 16, 32]),
        ("efficientnet_b0", {"norm": "sync_batch"}, [4, 8, 16, 32]),
        ("official_resnet18", {}, [4, 8, 16, 32]),
        ("dilated_resnet50", {"output_stride": 16}, [4, 8, 16]),
        ("spinenet_49s", {"input_size": (64, 64)}, [4, 8, 16, 32]),
    ],
)
def test_official_families_run_and_train(name, options, strides):
    backbone = factory.build_backbone(name, **options)
    _, outputs = _run(backbone)
    levels = sorted(outputs)
    assert levels[-1] == "5"
    assert [64 // outputs[k].shape[1] for k in levels] == strides
    assert [backbone.output_strides[k] for k in levels] == strides
    assert [backbone.output_channels[k] for k in levels] == [outputs[k].shape[-1] for k in levels]
    names = [v.name for v in backbone.variables]
    assert len(set(names)) == len(names) and all(n.startswith("backbone/") for n in names)
    x = tf.random.stateless_normal([2, 64, 64, 3], seed=(0, 1))
    with tf.GradientTape() as tape:
        outputs = backbone(x, training=True)
        loss = tf.add_n([tf.reduce_sum(tf.square(y)) for y in outputs.values()])
    variables = backbone.trainable_variables
    gradients = tape.gradient(loss, variables)
    assert [v.name for v, g in zip(variables, gradients) if g is None] == []


@pytest.mark.parametrize(
    "name, options, message",
    [
        ("mobilenetv2", {"norm": "group"}, "norm must be 'batch' or 'sync_batch'"),
        ("efficientnet_b0", {"output_stride": 16}, "output_stride must be 32 for"),
        ("mobilenetv2", {"frozen_stages": 2}, "frozen_stages must be 0"),
        ("mobilenetv2", {"multi_grid": (1, 2, 4)}, "belong to our ResNets"),
        ("spinenet_49", {}, "needs input_size"),
        ("mobilenetv2", {"depth": 3}, "'mobilenetv2'.*depth"),
    ],
)
def test_what_official_backbones_cannot_do_is_said(name, options, message):
    with pytest.raises(ValueError, match=message):
        factory.build_backbone(name, **options)
