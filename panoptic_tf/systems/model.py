"""One Keras model for the trainer: the training and the inference network over shared layers."""

from __future__ import annotations

from typing import Dict, Optional

import tensorflow as tf

from panoptic_tf.structures import Tensors


class PanopticModel(tf.keras.Model):
    """Runs the training network in training and the inference network else."""

    def __init__(
        self,
        training_network: tf.keras.Model,
        inference_network: tf.keras.Model,
        name: str = "panoptic_model",
    ):
        """See the class; the two networks share their layers."""
        super().__init__(name=name)
        self.training_network = training_network
        self.inference_network = inference_network

    @property
    def parts(self) -> Dict[str, tf.keras.layers.Layer]:
        """The layers with weights, by the first part of their variables' names."""
        return {layer.name: layer for layer in self.training_network.layers if layer.weights}

    @property
    def checkpoint_items(self) -> Dict[str, tf.keras.layers.Layer]:
        """What a checkpoint holds by name beside the model: the backbone, to start others from."""
        return {"backbone": self.parts["backbone"]}

    def call(self, inputs: Tensors, training: Optional[bool] = None) -> Tensors:
        """See `build_networks` of the system.

        Args:
          inputs: `image` and `image_info`, and in training what the system samples with.
          training: which network to run.
        """
        if training:
            return self.training_network(inputs, training=True)
        inputs = {key: inputs[key] for key in ("image", "image_info")}
        return self.inference_network(inputs, training=False)
