"""Segments from logits of queries, for `transformers_mask_transformer.py`.

By the functions of the authors' `MaskFormer` class, taken out of a file that needs detectron2, and
by the image processors of transformers, which differ in five points: masks are resized to 384x384
first (Mask2Former) and then as probabilities; a query's own area is counted after the product with
its score; pixels below 1/2 are kept; the share of a mask must exceed the threshold; and a stuff
segment that gets a second query takes the number of the next segment back to its own.
"""

from __future__ import annotations

import ast
import os
import types
from typing import Any, Callable, Dict, List, Sequence

import mask_transformer_cases as cases
import numpy as np
import torch
from torch.nn import functional
from transformers.models.mask2former.image_processing_pil_mask2former import (
    Mask2FormerImageProcessorPil,
)
from transformers.models.maskformer.image_processing_pil_maskformer import (
    MaskFormerImageProcessorPil,
)

_THINGS = [c for c in range(cases.NUM_CLASSES) if c not in cases.STUFF]
_THRESHOLD = 0.8
_OVERLAP = 0.8
_MAX_INSTANCES = 20
_PADDED = (64, 96)
_IMAGE = (60, 90)
_ORIGINAL = (75, 110)
_FUNCTIONS = ("panoptic_inference", "semantic_inference", "instance_inference")


def run(system: str, authors: str) -> Dict[str, np.ndarray]:
    """Segments of drawn logits.

    Args:
      system: `mask2former` or `maskformer`.
      authors: folder of the authors' files; None leaves their results out.

    Returns:
      class_logits, mask_logits; padded_size, image_size, original_size; authors_map int32
      [B, *original_size] and authors_segments [n, 4] of image, number, class, is thing;
      authors_semantic; authors_instance_{scores,classes,images,masks}, masks packed along the
      width, largest score of each image first (Mask2Former); hf_map, hf_segments [n, 5] of image,
      number, class, is fused, score; hf_semantic.
    """
    arrays = cases.draw_merges()
    classes, masks = (torch.from_numpy(x) for x in arrays.values())
    arrays.update(
        padded_size=np.array(_PADDED),
        image_size=np.array(_IMAGE),
        original_size=np.array(_ORIGINAL),
        thresholds=np.array([_THRESHOLD, _OVERLAP]),
        stuff=np.array(cases.STUFF),
        max_instances=np.array(_MAX_INSTANCES),
    )
    if authors:
        model = _Authors(os.path.join(authors, f"{system}.py"), cases.NUM_CLASSES, classes.shape[1])
        arrays.update(_run_authors(model, classes, masks))
    arrays.update(_run_transformers(system, classes, masks))
    return arrays


def measure(
    system: str, authors: str, seconds_of: Callable[[Callable[[], Any]], float]
) -> Dict[str, float]:
    """CPU-seconds from drawn logits of 100 queries to a map of 512x512; `post`: of all three."""
    size = (512, 512)
    of_classes, of_masks = (torch.from_numpy(x) for x in cases.draw_contest(size).values())
    processor, outputs = _processor(system), _outputs(of_classes, of_masks)
    stuff = set(range(80, 133))
    seconds = {
        "panoptic": seconds_of(
            lambda: processor.post_process_panoptic_segmentation(
                outputs, _THRESHOLD, label_ids_to_fuse=stuff, target_sizes=[size]
            )
        ),
        "semantic": seconds_of(
            lambda: processor.post_process_semantic_segmentation(outputs, target_sizes=[size])
        ),
        "instances": seconds_of(
            lambda: processor.post_process_instance_segmentation(outputs, target_sizes=[size])
        ),
    }
    seconds["post"] = sum(seconds.values())
    if authors:
        model = _Authors(os.path.join(authors, f"{system}.py"), 133, 100, range(80), 100)

        def all_of_authors() -> None:
            full = _resize(of_masks, size)[0]
            for name in model.functions:
                getattr(model, name)(of_classes[0], full)

        seconds["authors', all three"] = seconds_of(all_of_authors)
    return seconds


class _Authors:
    """Holds the functions of the authors' class, which read these attributes."""

    def __init__(
        self,
        path: str,
        num_classes: int,
        num_queries: int,
        things: Sequence[int] = _THINGS,
        max_instances: int = _MAX_INSTANCES,
    ):
        self.object_mask_threshold = _THRESHOLD
        self.overlap_threshold = _OVERLAP
        self.panoptic_on = True
        self.device = "cpu"
        self.num_queries = num_queries
        self.test_topk_per_image = max_instances
        self.sem_seg_head = types.SimpleNamespace(num_classes=num_classes)
        contiguous = dict(enumerate(things))
        self.metadata = types.SimpleNamespace(thing_dataset_id_to_contiguous_id=contiguous)
        with open(path, encoding="utf-8") as file:
            tree = ast.parse(file.read())
        (owner,) = (x for x in tree.body if isinstance(x, ast.ClassDef) and x.name == "MaskFormer")
        wanted = [x for x in owner.body if getattr(x, "name", "") in _FUNCTIONS]
        names: Dict[str, Any] = {
            "torch": torch,
            "F": functional,
            "Instances": lambda size: types.SimpleNamespace(),
            "Boxes": lambda boxes: boxes,
        }
        exec(compile(ast.Module(wanted, []), path, "exec"), names)  # noqa: S102
        self.functions = [x.name for x in wanted]
        for name in self.functions:
            setattr(self, name, types.MethodType(names[name], self))


def _resize(x: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    return functional.interpolate(x, size=tuple(size), mode="bilinear", align_corners=False)


def _run_authors(
    model: _Authors, classes: torch.Tensor, masks: torch.Tensor
) -> Dict[str, np.ndarray]:
    # As their forward does: to the padded input, without the padding, to the original size.
    full = _resize(_resize(masks, _PADDED)[..., : _IMAGE[0], : _IMAGE[1]], _ORIGINAL)
    maps, segments, semantic = [], [], []
    parts = ("scores", "classes", "images", "masks")
    instances: Dict[str, List[np.ndarray]] = {part: [] for part in parts}
    for image, (of_classes, of_masks) in enumerate(zip(classes, full)):
        segment_map, infos = model.panoptic_inference(of_classes, of_masks)
        maps.append(segment_map.numpy())
        segments += [[image, x["id"], x["category_id"], x["isthing"]] for x in infos]
        semantic.append(model.semantic_inference(of_classes, of_masks).argmax(0).numpy())
        if "instance_inference" in model.functions:
            found = model.instance_inference(of_classes, of_masks)
            order = torch.argsort(found.scores, descending=True)
            instances["scores"].append(found.scores[order].numpy())
            instances["classes"].append(found.pred_classes[order].numpy())
            instances["images"].append(np.full(len(order), image))
            packed = np.packbits(found.pred_masks[order].numpy().astype(bool), axis=-1)
            instances["masks"].append(packed)
    arrays = {
        "authors_map": np.stack(maps),
        "authors_segments": np.array(segments, np.int64),
        "authors_semantic": np.stack(semantic).astype(np.uint8),
    }
    for part, values in instances.items():
        if values:
            arrays[f"authors_instance_{part}"] = np.concatenate(values)
    return arrays


def _processor(system: str) -> Any:
    return {
        "mask2former": Mask2FormerImageProcessorPil,
        "maskformer": MaskFormerImageProcessorPil,
    }[system]()


def _outputs(classes: torch.Tensor, masks: torch.Tensor) -> Any:
    return types.SimpleNamespace(class_queries_logits=classes, masks_queries_logits=masks)


def _run_transformers(
    system: str, classes: torch.Tensor, masks: torch.Tensor
) -> Dict[str, np.ndarray]:
    processor, outputs = _processor(system), _outputs(classes, masks)
    sizes = [_ORIGINAL] * len(classes)
    panoptic = processor.post_process_panoptic_segmentation(
        outputs,
        threshold=_THRESHOLD,
        mask_threshold=0.5,
        overlap_mask_area_threshold=_OVERLAP,
        label_ids_to_fuse=set(cases.STUFF),
        target_sizes=sizes,
    )
    semantic = processor.post_process_semantic_segmentation(outputs, target_sizes=sizes)
    segments = [
        [image, x["id"], x["label_id"], x["was_fused"], x["score"]]
        for image, found in enumerate(panoptic)
        for x in found["segments_info"]
    ]
    return {
        "hf_map": np.stack([x["segmentation"].numpy() for x in panoptic]).astype(np.int32),
        "hf_segments": np.array(segments, np.float64),
        "hf_semantic": np.stack([x.numpy() for x in semantic]).astype(np.uint8),
    }
