"""Backbones: images to feature maps by level. Importing registers them all with the factory."""

from panoptic_tf.backbones import factory, hrnet, official, resnet, swin, xception

__all__ = ["factory", "hrnet", "official", "resnet", "swin", "xception"]
