"""Backbones: images to feature maps by level. Importing registers them all with the factory."""

from panoptic_tf.backbones import factory, official, resnet

__all__ = ["factory", "official", "resnet"]
