"""Mask transformers: Mask2Former (arXiv:2112.01527) and MaskFormer (arXiv:2107.06278).

Importing it registers their task and experiments.
"""

from panoptic_tf.systems.mask_transformer import experiments as _experiments  # noqa: F401
from panoptic_tf.systems.mask_transformer import task as _task  # noqa: F401
