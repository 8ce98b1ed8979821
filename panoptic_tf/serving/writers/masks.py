"""Plain masks: PNGs of category ids and of instance ids.

`convert --format=semantic_masks` and `--format=semantic_and_instance_masks` read them.
"""

from __future__ import annotations

import itertools
import os
from typing import Any, List

import numpy as np
from PIL import Image

from panoptic_tf.datasets import files
from panoptic_tf.datasets.dataset_info import DatasetInfo
from panoptic_tf.serving.result import PanopticResult
from panoptic_tf.serving.writers import base

SEMANTIC_DIR, INSTANCE_DIR = "semantic_masks", "instance_masks"
CATEGORIES_FILE = "categories.json"

_VOID_ID = 255
_MOST_ID = 65535


class SemanticMaskWriter(base.Writer):
    """Writes the data set's own category id of every pixel: `semantic_masks/<name>.png`.

    Ids up to 255 are the indices of a palette of the categories' colours, larger ones 16 bits grey.
    `semantic_masks/categories.json` holds the `categories` and the `void_id`: 255, or the smallest
    id that no category has where 255 is a category's. What stands for unlabelled pixels is void, as
    in the annotations.

    Raises:
      ValueError: a category id does not fit 16 bits.
    """

    def __init__(self, *args: Any):
        super().__init__(*args)
        info = self.dataset_info
        ids = info.dataset_ids[1:]
        if max(ids) > _MOST_ID:
            raise ValueError(
                f"{SEMANTIC_DIR}: the category id {max(ids)} of {info.name!r} does not fit 16 "
                f"bits; the largest that a mask holds is {_MOST_ID}."
            )
        void_id = next(i for i in itertools.chain([_VOID_ID], itertools.count()) if i not in ids)
        written = [void_id if i == info.unlabelled_id else i for i in ids]
        self._has_palette = max(*ids, void_id) < 256
        self._id_of_category = np.array(
            [void_id, *written], np.uint8 if self._has_palette else np.uint16
        )
        files.write_json(
            os.path.join(self.output_dir, SEMANTIC_DIR, CATEGORIES_FILE),
            {"categories": info.annotated().to_coco(), "void_id": void_id},
        )

    def add(self, image: base.ImageFile, result: PanopticResult) -> None:
        """See the class."""
        picture = Image.fromarray(self._id_of_category[result.category_mask])
        if self._has_palette:
            picture.putpalette(_palette(self.dataset_info))
        base.save_png(picture, self.output_dir, SEMANTIC_DIR, f"{image.name}.png")


class InstanceMaskWriter(base.Writer):
    """Writes the instance id of every pixel, 16 bits grey: `instance_masks/<name>.png`; 0 is none.

    An id is unique in its image.
    """

    def check(self, image: base.ImageFile, result: PanopticResult) -> None:
        """See `Writer`: instance ids must fit 16 bits."""
        most = int(result.instance_mask.max())
        if most > _MOST_ID:
            raise ValueError(
                f"{image.path}: the instance id {most} does not fit the 16 bits of a mask."
            )

    def add(self, image: base.ImageFile, result: PanopticResult) -> None:
        """See the class."""
        picture = Image.fromarray(result.instance_mask.astype(np.uint16))
        base.save_png(picture, self.output_dir, INSTANCE_DIR, f"{image.name}.png")


def _palette(dataset_info: DatasetInfo) -> List[int]:
    """The categories' colours by their ids; other ids have a grey that is no category's."""
    colors = {c.dataset_id: c.color for c in dataset_info.annotated().categories}
    other = next((v, v, v) for v in range(256) if (v, v, v) not in colors.values())
    return [channel for index in range(256) for channel in colors.get(index, other)]
