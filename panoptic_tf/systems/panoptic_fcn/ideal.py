"""The best outputs that the heads can have, from targets: for the ceiling."""

from __future__ import annotations

import tensorflow as tf

from panoptic_tf.structures import Tensors

_CONFIDENT = 20.0
_QUARTERS = 4.0


def ideal_outputs(targets: Tensors) -> Tensors:
    """Targets in the form of selected kernels.

    Each instance and each stuff category has a channel of the encoded feature for itself, and a
    kernel that reads that channel.

    Args:
      targets: features and labels of `PanopticFCNTargetGenerator`, batched.

    Returns:
      What `PanopticFCNPostProcessor` takes.
    """
    maps, outputs = [], {}
    if "gt_masks" in targets:
        maps.append(targets["gt_masks"])  # [B, h, w, M]
        valid = tf.reduce_any(tf.reduce_any(targets["gt_masks"] > 0, axis=1), axis=1)
        valid = tf.logical_and(valid, tf.reduce_any(targets["gt_levels"], axis=-1))
        outputs.update(
            thing_scores=tf.cast(valid, tf.float32),
            thing_classes=targets["gt_classes"],
            thing_valid=valid,
        )
    if "gt_stuff" in targets:
        maps.append(targets["gt_stuff"])  # [B, h, w, S]
        valid = tf.reduce_any(tf.reduce_any(targets["gt_stuff"] > 0, axis=1), axis=1)
        outputs.update(stuff_scores=tf.cast(valid, tf.float32), stuff_valid=valid)
    shares = tf.cast(tf.concat(maps, axis=-1), tf.float32) / _QUARTERS
    outputs["encoded"] = _CONFIDENT * (shares - 0.5)
    channels = shares.shape[-1]
    things = maps[0].shape[-1] if "gt_masks" in targets else 0
    kernels = tf.tile(tf.eye(channels)[tf.newaxis], [tf.shape(shares)[0], 1, 1])
    if things:
        outputs["thing_kernels"] = kernels[:, :things]
    if "gt_stuff" in targets:
        outputs["stuff_kernels"] = kernels[:, things:]
    return outputs
