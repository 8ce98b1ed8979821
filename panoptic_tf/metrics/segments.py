"""Segments of an image as small consecutive labels, and the pixels two such maps share.

Everything the metrics need to know about one image is how many pixels each pair of segments shares;
most pairs share none and are left out. Segments are areas, so maps are read in runs of equal pixels
in reading order: one comparison of each pixel with the one before, all else by run, of which there
are fifty times fewer.
"""

from __future__ import annotations

from typing import Callable, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from panoptic_tf.metrics import boundaries

MAX_SEGMENT_ID = 256**3 - 1
"""Largest id a COCO panoptic PNG holds."""

_MAX_INSTANCE_ID = 2**32
"""Up to here a (category, instance, crowd) triple is one 64-bit number."""

_MAX_TABLE = 2**18
"""Up to here a table over all keys is cheaper than sorting those of the runs."""


class RunLabels(NamedTuple):
    """The S segments of one image under labels 1..S; label 0 is void.

    Attributes:
      labels: int64 [runs], 0..S.
      categories: int64 [S + 1], category id by label; entry 0 is 0.
      is_crowd: bool [S + 1]; entry 0 is False.
      ids: int64 [S + 1], instance id, or that of the id map; entry 0 is 0.
    """

    labels: np.ndarray
    categories: np.ndarray
    is_crowd: np.ndarray
    ids: np.ndarray


class LabelMap:
    """A map of segments that are labelled when it is known at which pixels they are asked for.

    Args:
      masks: integers [H, W] each, kept flat; pixels that are equal in all are of one segment.
      label: maps the values of the masks in each run of pixels, int64 [runs], to labels. Every
        segment has a run among them.
    """

    def __init__(self, masks: Sequence[np.ndarray], label: Callable[..., RunLabels]):
        self.size = masks[0].shape
        self.masks = [mask.reshape(-1) for mask in masks]
        self._label = label

    def find_boundary(self, distance: int) -> np.ndarray:
        """The segments' boundaries (`boundaries.find_boundary`): bool [H * W]."""
        masks = [mask.reshape(self.size) for mask in self.masks]
        return boundaries.find_boundary(*masks, distance=distance).reshape(-1)

    def label_runs(self, starts: np.ndarray) -> RunLabels:
        """Labels runs of pixels.

        Args:
          starts: int64 [runs], first pixels: at least those that `find_runs` of the masks tells.

        Raises:
          ValueError: the masks hold what they must not.
        """
        return self._label(*(mask.take(starts).astype(np.int64) for mask in self.masks))


class Overlaps(NamedTuple):
    """Pixels shared by G ground-truth and P predicted segments; row and column 0 are void.

    Attributes:
      rows, columns: int64 [K], the pairs that share pixels, in ascending order.
      pixels: int64 [K], at least 1.
      gt_categories: int64 [G + 1].
      gt_is_crowd: bool [G + 1].
      categories: int64 [P + 1].
      ids: int64 [P + 1], instance ids of the predicted segments, or those of their id map.
      boundary_pixels: int64 [K, 3], how many of the pixels are of the boundary of both segments, of
        the ground-truth one's, of the predicted one's; None where boundaries were not asked for.
    """

    rows: np.ndarray
    columns: np.ndarray
    pixels: np.ndarray
    gt_categories: np.ndarray
    gt_is_crowd: np.ndarray
    categories: np.ndarray
    ids: np.ndarray
    boundary_pixels: Optional[np.ndarray] = None


def find_runs(*masks: np.ndarray) -> np.ndarray:
    """Where, in reading order, any of some masks has another value than one pixel before.

    Args:
      *masks: of any one shape, P pixels each.

    Returns:
      bool [P], True at the first pixel.
    """
    is_start = np.empty(masks[0].size, bool)
    is_start[:1] = True
    for i, mask in enumerate(masks):
        values = mask.reshape(-1)
        if i == 0:
            np.not_equal(values[1:], values[:-1], out=is_start[1:])
        else:
            is_start[1:] |= values[1:] != values[:-1]
    return is_start


def label_masks(
    category_mask: np.ndarray,
    instance_mask: np.ndarray,
    crowd_mask: Optional[np.ndarray] = None,
) -> LabelMap:
    """Labels each distinct (category, instance, crowd) triple, in that order; category 0 is void.

    Args:
      category_mask: integers [H, W], 0..N.
      instance_mask: integers [H, W], at least 0.
      crowd_mask: bool [H, W], or None: no crowd.

    Returns:
      A map that raises a ValueError when it is labelled, where a mask holds a negative number.

    Raises:
      ValueError: the masks differ in size.
    """
    masks = [category_mask, instance_mask]
    masks += [] if crowd_mask is None else [np.asarray(crowd_mask, bool)]
    _check_sizes(masks)
    return LabelMap(masks, _label_triples)


def label_id_map(
    id_map: np.ndarray,
    *,
    ids: Sequence[int],
    categories: Sequence[int],
    is_crowd: Optional[Sequence[bool]] = None,
    source: str = "the id map",
) -> LabelMap:
    """Labels the segments of an id map in the order of their table; id 0 is void.

    Args:
      id_map: integers [H, W], 0..MAX_SEGMENT_ID.
      ids: [S] distinct segment ids, at least 1.
      categories: [S] category ids.
      is_crowd: [S], or None: no crowd.
      source: file and image, for error messages.

    Returns:
      A map that raises a ValueError when it is labelled, where map and table do not hold the same
      segments.

    Raises:
      ValueError: the ids of the table are no ids or not distinct.
    """
    table = np.array([0, *ids], np.int64)
    order = np.argsort(table)
    ascending = table[order]
    _check_table(table[1:], ascending, source)
    crowds = np.zeros(table.size, bool)
    crowds[1:] = False if is_crowd is None else is_crowd
    categories_by_label = np.array([0, *categories], np.int64)

    def label(values: np.ndarray) -> RunLabels:
        position = np.searchsorted(ascending, values)
        labels = order.take(position, mode="clip")
        _check_labels(labels, values, table, source)
        return RunLabels(labels, categories_by_label, crowds, table)

    return LabelMap([id_map], label)


def count_overlaps(
    ground_truth: LabelMap, prediction: LabelMap, *, boundary_ratio: float = 0.0
) -> Overlaps:
    """Counts the pixels of every pair of segments.

    Args:
      ground_truth, prediction: of one image.
      boundary_ratio: width of boundaries as a share of the image's diagonal; 0 leaves them out.

    Raises:
      ValueError: the two maps differ in size, or one cannot be labelled.
    """
    size = tuple(ground_truth.size)
    if size != tuple(prediction.size):
        raise ValueError(
            f"the prediction must have the ground truth's size {size}, "
            f"got {tuple(prediction.size)}."
        )
    is_start = find_runs(*ground_truth.masks, *prediction.masks)
    edges = []
    if boundary_ratio:
        distance = boundaries.boundary_distance(size, boundary_ratio)
        edges = [side.find_boundary(distance) for side in (ground_truth, prediction)]
        is_start |= find_runs(*edges)
    starts = np.flatnonzero(is_start)
    truth, found = ground_truth.label_runs(starts), prediction.label_runs(starts)
    keys = truth.labels * found.categories.size + found.labels
    for is_edge in edges:
        keys = 2 * keys + is_edge.take(starts)
    keys, pixels = count_pixels(keys, starts=starts, end=is_start.size)
    boundary_pixels = None
    if edges:
        keys, pixels, boundary_pixels = _split_boundaries(keys, pixels)
    rows, columns = np.divmod(keys, found.categories.size)
    return Overlaps(
        rows,
        columns,
        pixels,
        truth.categories,
        truth.is_crowd,
        found.categories,
        found.ids,
        boundary_pixels,
    )


def count_pixels(
    keys: np.ndarray, *, starts: np.ndarray, end: int
) -> Tuple[np.ndarray, np.ndarray]:
    """Counts the pixels of runs by key.

    Args:
      keys: int64 [runs], at least 0.
      starts: int64 [runs], first pixel of each.
      end: number of all pixels.

    Returns:
      The distinct keys, ascending, and the pixels of each: int64 [K].
    """
    found, length = None, 0
    if keys.max(initial=0) >= _MAX_TABLE:
        found, keys = np.unique(keys, return_inverse=True)
        keys, length = keys.reshape(-1), found.size
    # A sum of pixels is exact in float64.
    counts = np.bincount(keys, np.diff(starts, append=end), minlength=length).astype(np.int64)
    if found is None:
        found = np.flatnonzero(counts)
        counts = counts[found]
    return found, counts


def _split_boundaries(
    keys: np.ndarray, pixels: np.ndarray
) -> Tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sums pixels by pair; keys are 4 pair + 2 [ground-truth boundary] + [predicted boundary].

    Returns:
      The pairs, ascending, the pixels of each, [K], and its boundary pixels, see `Overlaps`.
    """
    pairs, positions = np.unique(keys // 4, return_inverse=True)
    counts = np.zeros((pairs.size, 4), np.int64)
    counts[positions.reshape(-1), keys % 4] = pixels
    _, found, truth, both = counts.T
    return pairs, counts.sum(axis=1), np.stack([both, truth + both, found + both], axis=1)


def _check_sizes(masks: Sequence[np.ndarray]) -> None:
    names = ("category_mask", "instance_mask", "crowd_mask")
    sizes = {name: mask.shape for name, mask in zip(names, masks)}
    if len(set(sizes.values())) > 1 or masks[0].ndim != 2:
        raise ValueError(f"masks must be [H, W] and of one size, got {sizes}.")


def _label_triples(
    categories: np.ndarray, instances: np.ndarray, crowds: Optional[np.ndarray] = None
) -> RunLabels:
    """Labels the triples [runs] in their order."""
    for name, values in (("category_mask", categories), ("instance_mask", instances)):
        if values.min(initial=0) < 0:
            raise ValueError(f"{name} must not be negative, got {int(values.min())}.")
    ids = None
    if instances.max(initial=0) > _MAX_INSTANCE_ID:
        ids, instances = np.unique(instances, return_inverse=True)
        instances = instances.reshape(-1)
    num_instances = int(instances.max(initial=0)) + 1
    keys = (categories * num_instances + instances) * 2
    keys += 0 if crowds is None else crowds
    keys[categories == 0] = 0
    found, labels = _rank(keys)
    found_categories, found_instances = np.divmod(found // 2, num_instances)
    if ids is not None:
        found_instances = np.where(found_categories > 0, ids[found_instances], 0)
    return RunLabels(labels, found_categories, found % 2 == 1, found_instances)


def _check_labels(labels: np.ndarray, values: np.ndarray, table: np.ndarray, source: str) -> None:
    """Whether the ids of runs [runs] and those of the table [S + 1] are the same."""
    is_unknown = table.take(labels) != values
    if is_unknown.any():
        if not 0 <= values.min() <= values.max() <= MAX_SEGMENT_ID:
            raise ValueError(f"{source}: pixels must hold ids 0..{MAX_SEGMENT_ID}.")
        unknown = int(values[np.argmax(is_unknown)])
        raise ValueError(
            f"{source}: segment {unknown} has pixels in the PNG and no entry in segments_info."
        )
    is_there = np.zeros(table.size, bool)
    is_there[labels] = True
    if not is_there[1:].all():
        missing = int(table[1:][np.argmin(is_there[1:])])
        raise ValueError(
            f"{source}: segment {missing} is in segments_info and has no pixel in the PNG."
        )


def _rank(keys: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
    """0 and the distinct keys [R], ascending, and the position of each key among them [R]."""
    if keys.max(initial=0) >= _MAX_TABLE:
        found, positions = np.unique(np.append(keys, 0), return_inverse=True)
        return found, positions.reshape(-1)[:-1]
    is_there = np.zeros(int(keys.max(initial=0)) + 1, bool)
    is_there[keys] = True
    is_there[0] = True
    return np.flatnonzero(is_there), (np.cumsum(is_there) - 1)[keys]


def _check_table(ids: np.ndarray, ascending: np.ndarray, source: str) -> None:
    """Whether the ids [S] are ids and distinct; `ascending` has them in order, and 0."""
    if ids.size and not 1 <= ids.min() <= ids.max() <= MAX_SEGMENT_ID:
        wrong = int(ids.min()) if ids.min() < 1 else int(ids.max())
        raise ValueError(f"{source}: segment ids must be 1..{MAX_SEGMENT_ID}, got {wrong}.")
    is_repeated = ascending[1:] == ascending[:-1]
    if is_repeated.any():
        repeated = int(ascending[np.argmax(is_repeated)])
        raise ValueError(f"{source}: segment {repeated} has more than one entry.")
