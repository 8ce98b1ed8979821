"""What travels between the parts: one place for names, shapes and dtypes.

Category ids are contiguous 1..N in every tensor, 0 is void. Instance ids are 1..M and unique in the
image, 0 is none. Coordinates are (y, x), sizes (height, width), boxes [ymin, xmin, ymax, xmax].
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Dict, NamedTuple, Optional

if TYPE_CHECKING:
    import tensorflow as tf

VOID = 0
"""Category id of a pixel without annotation."""

Tensors = Dict[str, Any]


class InstanceAnnotations(NamedTuple):
    """Instances that may overlap (COCO instances), K of them, in the frame of the image.

    Attributes:
      masks: uint8 [K, H, W], 1 on the instance.
      categories: int32 [K], contiguous category ids.
      is_crowd: bool [K].
    """

    masks: tf.Tensor
    categories: tf.Tensor
    is_crowd: tf.Tensor


class PanopticSample(NamedTuple):
    """One annotated image on its way through the input pipeline.

    Attributes:
      image: float32 [H, W, 3], RGB, 0..255.
      image_info: float32 [4, 2]; rows are original size, network size, scale, offset, each (y, x).
        A point p of the original image lies at p * scale - offset.
      category_mask: int32 [H, W], 0 is void.
      instance_mask: int32 [H, W], 0 on stuff and void; a crowd has an id as well.
      crowd_mask: bool [H, W], True on the pixels of crowd segments.
      image_id: string [], the data set's own id as JSON text: `142238` or `"frankfurt_000000"`.
      instances: overlapping instances of the record, or None: derived from the id map.
      seed: int64 [2], a draw of its own each time the image comes, for what the targets sample;
        None where nothing is drawn.
    """

    image: tf.Tensor
    image_info: tf.Tensor
    category_mask: tf.Tensor
    instance_mask: tf.Tensor
    crowd_mask: tf.Tensor
    image_id: tf.Tensor
    instances: Optional[InstanceAnnotations] = None
    seed: Optional[tf.Tensor] = None


class ImageInfo:
    """Row numbers of `image_info` [..., 4, 2] (the Model Garden's layout)."""

    ORIGINAL_SIZE = 0
    NETWORK_SIZE = 1
    SCALE = 2
    OFFSET = 3


class Prediction:
    """Key names of a panoptic prediction, in the image's own frame; N segments, B images.

    `H, W` is the static output size; pixels beyond `image_size` are void. Rows of the segment table
    past `num_segments` are zero.
    """

    CATEGORY_MASK = "category_mask"  # int32 [B, H, W], 0 is void
    INSTANCE_MASK = "instance_mask"  # int32 [B, H, W], unique in the image, 0 on stuff and void
    SEGMENT_CATEGORY = "segment_category"  # int32 [B, N]
    SEGMENT_INSTANCE = (
        "segment_instance"  # int32 [B, N], the segment's id in instance_mask, 0 stuff
    )
    SEGMENT_SCORE = "segment_score"  # float32 [B, N], 0..1
    SEGMENT_AREA = "segment_area"  # int32 [B, N], pixels
    NUM_SEGMENTS = "num_segments"  # int32 [B]
    IMAGE_SIZE = "image_size"  # int32 [B, 2], the part of [H, W] that the image fills
    SEMANTIC_MASK = "semantic_mask"  # int32 [B, H, W], category of highest logit, before the merge

    # Of systems that detect: K instances before the merge, by descending score; they may overlap.
    DETECTION_BOXES = "detection_boxes"  # float32 [B, K, 4], in the same frame as the masks
    DETECTION_CATEGORIES = "detection_categories"  # int32 [B, K]
    DETECTION_SCORES = "detection_scores"  # float32 [B, K], 0..1
    DETECTION_MASKS = "detection_masks"  # float32 [B, K, m, m], probabilities over the box
    NUM_DETECTIONS = "num_detections"  # int32 [B]; rows past it are zero

    # Instead of DETECTION_MASKS where the masks were never in a box. Bit i % 32 of plane i // 32:
    # the pixel belongs to detection i, see `ops.bit_masks`. The boxes are tight around them.
    DETECTION_BIT_MASKS = "detection_bit_masks"  # int32 [B, H, W, ceil(K / 32)]

    PANOPTIC_KEYS = (
        CATEGORY_MASK,
        INSTANCE_MASK,
        SEGMENT_CATEGORY,
        SEGMENT_INSTANCE,
        SEGMENT_SCORE,
        SEGMENT_AREA,
        NUM_SEGMENTS,
        IMAGE_SIZE,
    )

    DETECTION_KEYS = (
        DETECTION_BOXES,
        DETECTION_CATEGORIES,
        DETECTION_SCORES,
        DETECTION_MASKS,
        NUM_DETECTIONS,
    )

    BIT_MASK_DETECTION_KEYS = (
        DETECTION_BOXES,
        DETECTION_CATEGORIES,
        DETECTION_SCORES,
        DETECTION_BIT_MASKS,
        NUM_DETECTIONS,
    )


class GroundTruth:
    """Key names of the evaluation labels, in the image's frame, padded to the batch's largest."""

    CATEGORY_MASK = "category_mask"  # int32 [B, H, W]
    INSTANCE_MASK = "instance_mask"  # int32 [B, H, W]
    CROWD_MASK = "crowd_mask"  # bool [B, H, W]
    IMAGE_SIZE = "image_size"  # int32 [B, 2], the size of each image
    IMAGE_ID = "image_id"  # string [B], JSON text

    # Only where asked for: K instances that may overlap, as the records bring them.
    INSTANCE_RLES = "instance_rles"  # string [B, K], COCO run lengths, empty past the last
    INSTANCE_CATEGORIES = "instance_categories"  # int32 [B, K]
    INSTANCE_IS_CROWD = "instance_is_crowd"  # bool [B, K]
    NUM_INSTANCES = "num_instances"  # int32 [B]; -1: the record brings none, the masks tell

    INSTANCE_KEYS = (INSTANCE_RLES, INSTANCE_CATEGORIES, INSTANCE_IS_CROWD, NUM_INSTANCES)
