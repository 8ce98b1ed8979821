"""COCO's encoding of masks that may overlap."""

import numpy as np
from pycocotools import mask as coco_mask


def encode_masks(masks):
    """Run-length encodes masks [K, H, W]."""
    if not len(masks):
        return []
    # [K, H, W] -> [H, W, K], column-major as the encoder reads it
    return coco_mask.encode(np.asfortranarray(np.transpose(masks, (1, 2, 0)).astype(np.uint8)))
