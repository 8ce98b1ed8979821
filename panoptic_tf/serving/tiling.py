"""Large images a tile at a time, and one panoptic map of all tiles.

Tiles have one size and overlap their neighbours. A pixel's depth in a tile is its distance to the
nearest border that is not the image's. Tiles come in reading order, and each is laid on the map of
those before it, which it covers where its pixels are deeper. In the part that the map had already:

- Stuff of one category is one segment.
- Things of one category are one where they share more than half of the smaller one's pixels. So
  things grow over many tiles, and parts that one tile shows as one were never two.
- A thing without a partner that keeps less than half of its pixels is left out; one that keeps more
  and that its tile shows whole keeps all, but where another such thing lies deeper.
- Void gives way to whatever the other tile sees.

A thing has the best score of its parts, stuff the mean of its parts by their pixels. An overlap as
wide as most things shows each of them whole in some tile; larger ones are put together.
"""

from __future__ import annotations

import math
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np

from panoptic_tf.datasets import segments
from panoptic_tf.serving import detections, result
from panoptic_tf.structures import VOID, Prediction

Arrays = Dict[str, np.ndarray]
Scores = Mapping[Tuple[int, int], float]

_MIN_SHARED = 0.5
_MIN_KEPT = 0.5
_UNSEEN = -1
_FAR = 2**30

_LEFT_OUT, _VOID, _BY_DEPTH, _KEPT = range(4)
"""Who covers whom, before depth is asked."""

_SEGMENT = np.dtype(
    [
        ("root", np.int32),  # the row that this one was found to be, mostly itself
        ("category", np.int32),
        ("is_thing", bool),
        ("is_whole", bool),  # a tile shows all of it
        ("area", np.int64),  # pixels on the map
        ("score", np.float64),
        ("weight", np.float64),  # pixels that a mean score is of
    ]
)


class Tiling(NamedTuple):
    """How images are cut.

    Attributes:
      size: (height, width) of a tile in pixels of the image.
      overlap: pixels that neighbours share, at least.
    """

    size: Tuple[int, int]
    overlap: int

    @classmethod
    def of(
        cls, size: Union[int, Sequence[int], None], overlap: Optional[int] = None
    ) -> Optional[Tiling]:
        """A tiling from what a user says.

        Args:
          size: side of square tiles, or (height, width), in pixels; None: images are not cut.
          overlap: in pixels, at most half of the shorter side; default a quarter of it.

        Raises:
          ValueError: other values, or an overlap without a size.
        """
        if size is None:
            if overlap is not None:
                raise ValueError("tile_overlap is of tiles: set tile_size too.")
            return None
        sides: List[Any] = list(size) if isinstance(size, (list, tuple)) else [size]
        if len(sides) not in (1, 2) or not all(type(s) is int and s >= 2 for s in sides):
            raise ValueError(
                f"tile_size must be a side or height and width, pixels of at least 2, got {size!r}."
            )
        sides = sides * 2 if len(sides) == 1 else sides
        largest = min(sides) // 2
        overlap = min(sides) // 4 if overlap is None else overlap
        if not isinstance(overlap, int) or not 0 <= overlap <= largest:
            raise ValueError(
                f"tile_overlap must lie in 0..{largest}, half of the tile's shorter side, "
                f"got {overlap!r}."
            )
        return cls((sides[0], sides[1]), overlap)

    def cuts(self, image_size: Sequence[int]) -> bool:
        """Whether an image of (height, width) is larger than a tile."""
        return image_size[0] > self.size[0] or image_size[1] > self.size[1]

    def starts(self, image_size: Sequence[int]) -> Tuple[List[int], List[int]]:
        """First rows and first columns of the tiles, spread evenly over (height, width)."""
        height, width = (self._spread(length, side) for length, side in zip(image_size, self.size))
        return height, width

    def _spread(self, length: int, side: int) -> List[int]:
        count = max(1, math.ceil((length - self.overlap) / (side - self.overlap)))
        room = max(length - side, 0)
        return [room * i // max(count - 1, 1) for i in range(count)]


class TilePrediction(NamedTuple):
    """What a tile adds to the map.

    Attributes:
      category_mask: int32 [h, w], 0 is void.
      instance_mask: int32 [h, w], 0 on stuff.
      scores: by (category, instance); None where the model gives none.
      is_panoptic: False where the model has a semantic mask alone.
    """

    category_mask: np.ndarray
    instance_mask: np.ndarray
    scores: Optional[Scores]
    is_panoptic: bool = True


def panoptic_masks(arrays: Arrays, score_threshold: Optional[float] = None) -> TilePrediction:
    """The panoptic map in the arrays of one image; detections are drawn where there is none.

    Args:
      arrays: keys of `structures.Prediction`, unbatched.
      score_threshold: of detections that are drawn.
    """
    if Prediction.CATEGORY_MASK not in arrays and Prediction.SEMANTIC_MASK in arrays:
        category_mask = arrays[Prediction.SEMANTIC_MASK]
        instance_mask = np.zeros_like(category_mask)
        return TilePrediction(category_mask, instance_mask, None, is_panoptic=False)
    if Prediction.CATEGORY_MASK not in arrays:
        size = arrays[Prediction.IMAGE_SIZE].tolist()
        arrays = detections.draw_detections(arrays, size, score_threshold)
    masks = arrays[Prediction.CATEGORY_MASK], arrays[Prediction.INSTANCE_MASK]
    return TilePrediction(*masks, result.segment_scores(arrays) or None)


def predict_tiles(
    predict: Callable[[np.ndarray], TilePrediction],
    pixels: np.ndarray,
    tiling: Tiling,
    *,
    num_categories: int,
) -> Arrays:
    """Predicts an image tile by tile.

    Args:
      predict: gives the panoptic map of a tile, uint8 [h, w, 3], in its size.
      pixels: uint8 [H, W, 3].
      tiling: how it is cut.
      num_categories: of the model.

    Returns:
      What `TileMerger.finish` returns.
    """
    tops, lefts = tiling.starts(pixels.shape[:2])
    height, width = tiling.size
    merger = TileMerger(pixels.shape[:2], height, num_categories)
    for top in tops:
        for left in lefts:
            tile = pixels[top : top + height, left : left + width]
            merger.add(top, left, predict(np.ascontiguousarray(tile)))
    return merger.finish()


class TileMerger:
    """Lays the predictions of tiles on one map; the rule is the module's.

    Beside the map it holds the depths in a band of the height of a tile, and a table of segments.

    Args:
      image_size: (height, width).
      tile_height: of the highest tile.
      num_categories: N.
    """

    def __init__(self, image_size: Sequence[int], tile_height: int, num_categories: int):
        height, width = image_size
        self._map = np.zeros((height, width), np.int32)  # rows of the table, 0 is void
        self._depths = np.full((min(tile_height, height), width), _UNSEEN, np.int32)
        self._top = 0  # of the band of depths
        self._is_panoptic = True
        self._table = np.zeros(num_categories + 1, _SEGMENT)  # first void and stuff, then things
        self._table["category"] = np.arange(num_categories + 1)
        self._table["root"] = np.arange(num_categories + 1)

    def add(self, top: int, left: int, tile: TilePrediction) -> None:
        """Adds one tile; tiles come in reading order.

        Args:
          top, left: of the tile in the image.
          tile: what was found.
        """
        self._is_panoptic = tile.is_panoptic
        found, own = _segments_of(tile)
        window = slice(top, top + found.shape[0]), slice(left, left + found.shape[1])
        self._move_band(top)
        depths = self._depths[: found.shape[0], window[1]]
        own_depths = self._depths_in_tile(window)
        own["is_whole"] = True
        own["is_whole"][found[own_depths == 1]] = False

        table_rows, here = _compact(self._table["root"][self._map[window]], len(self._table))
        old = self._table[table_rows]
        pairs = here * len(own) + found

        def count(pixels: np.ndarray) -> np.ndarray:
            counts = np.bincount(pairs[pixels], minlength=len(old) * len(own))
            return counts.reshape(len(old), len(own))

        is_seen = depths != _UNSEEN
        is_deeper = ~is_seen | (here == VOID) | (found != VOID) & (own_depths > depths)
        is_one = _find_partners(count(is_seen), old, own)  # [old, own]
        covered = count(is_deeper)
        own_ranks = _ranks(own, covered.sum(axis=0), np.logical_or.reduce(is_one, axis=0))
        left_over = old["area"] - covered.sum(axis=1)
        old_ranks = _ranks(old, left_over, np.logical_or.reduce(is_one, axis=1))
        lead = own_ranks[found] - old_ranks[here]
        covers = ~is_seen | (lead > 0) | (lead == 0) & is_deeper

        counts = count(covers)
        self._table["area"][table_rows] -= counts.sum(axis=1)
        new_rows = self._enter(own, [table_rows[column] for column in is_one.T])
        np.add.at(self._table["area"], new_rows, counts.sum(axis=0))
        np.copyto(self._map[window], new_rows[found], where=covers)
        np.copyto(depths, own_depths, where=covers)

    def finish(self) -> Arrays:
        """The whole image, as the keys of `structures.Prediction` without a batch dimension.

        Returns:
          category_mask, instance_mask and image_size, and the segment table where there are scores;
          of a semantic model semantic_mask and image_size. The merger is used up.
        """
        table = self._table
        is_there = table["area"] > 0  # of roots alone
        is_there[VOID] = False
        instances = np.cumsum(is_there & table["is_thing"]) * table["is_thing"]
        categories = np.where(is_there, table["category"], VOID)
        category_mask = np.empty_like(self._map)
        for rows, mask in zip(self._map, category_mask):
            rows[:] = table["root"][rows]
            mask[:] = categories[rows]
            rows[:] = instances[rows]
        image_size = np.asarray(self._map.shape, np.int32)
        found = np.flatnonzero(is_there)
        if not self._is_panoptic:
            return {Prediction.SEMANTIC_MASK: category_mask, Prediction.IMAGE_SIZE: image_size}
        masks = {
            Prediction.CATEGORY_MASK: category_mask,
            Prediction.INSTANCE_MASK: self._map,
            Prediction.IMAGE_SIZE: image_size,
        }
        if np.isnan(table["score"][found]).any():
            return masks
        return {
            **masks,
            Prediction.SEGMENT_CATEGORY: table["category"][found],
            Prediction.SEGMENT_INSTANCE: instances[found].astype(np.int32),
            Prediction.SEGMENT_SCORE: table["score"][found].astype(np.float32),
            Prediction.SEGMENT_AREA: table["area"][found].astype(np.int32),
            Prediction.NUM_SEGMENTS: np.asarray(len(found), np.int32),
        }

    def _move_band(self, top: int) -> None:
        """Moves the band of depths down to a row of tiles."""
        step = top - self._top
        if step:
            self._depths[:-step] = self._depths[step:].copy()
            self._depths[-step:] = _UNSEEN
            self._top = top

    def _depths_in_tile(self, window: Tuple[slice, slice]) -> np.ndarray:
        """Distance of each pixel to the nearest border of its tile that is not the image's, from 1.

        int32 [h, w].
        """
        rows, columns = (_distances(span, end) for span, end in zip(window, self._map.shape))
        return np.minimum(rows[:, np.newaxis], columns)

    def _enter(self, own: np.ndarray, partners: Sequence[np.ndarray]) -> np.ndarray:
        """Enters the segments of a tile into the table, but for their pixels.

        Args:
          own: [S + 1] of `_SEGMENT`.
          partners: the rows in the table, roots, that each is one with.

        Returns:
          int32 [S + 1], the row of each.
        """
        is_thing = own["is_thing"]
        joined = [self._join(one) for one in partners]  # A later one may join earlier ones again.
        rows = np.where(is_thing, self._table["root"][joined], own["category"])
        is_new = is_thing & (rows == 0)
        rows[is_new] = len(self._table) + np.arange(np.count_nonzero(is_new))
        self._table = table = np.concatenate([self._table, own[is_new]])
        table["root"][rows[is_new]] = rows[is_new]
        table["area"][rows[is_new]] = 0
        np.logical_or.at(table["is_whole"], rows, own["is_whole"])
        np.maximum.at(table["score"], rows[is_thing], own["score"][is_thing])
        stuff = rows[~is_thing]
        weights = table["weight"][stuff] + own["area"][~is_thing]
        sums = table["score"][stuff] * table["weight"][stuff]
        sums += (own["score"] * own["area"])[~is_thing]
        table["score"][stuff] = sums / np.maximum(weights, 1)
        table["weight"][stuff] = weights
        return rows.astype(np.int32)

    def _join(self, rows: np.ndarray) -> int:
        """Makes one segment of several rows, and returns its root; 0 of none."""
        table = self._table
        rows = np.unique(table["root"][rows])
        if len(rows) < 2:
            return int(rows.sum())
        table["area"][rows[0]] = table["area"][rows].sum()
        table["area"][rows[1:]] = 0
        table["score"][rows[0]] = table["score"][rows].max()
        table["is_whole"][rows[0]] = table["is_whole"][rows].any()
        table["root"][np.isin(table["root"], rows)] = rows[0]
        return int(rows[0])


def _segments_of(tile: TilePrediction) -> Tuple[np.ndarray, np.ndarray]:
    """The S segments of a tile: int32 [h, w], their numbers from 1, and [S + 1] of `_SEGMENT`."""
    found, categories, instances = segments.masks_to_rows(tile.category_mask, tile.instance_mask)
    table = np.zeros(len(categories) + 1, _SEGMENT)
    table["category"][1:] = categories
    table["is_thing"][1:] = instances > 0
    table["area"] = np.bincount(found.reshape(-1), minlength=len(table))
    keys = zip(categories.tolist(), instances.tolist())
    if tile.scores is None:
        table["score"][1:] = np.nan
    else:
        table["score"][1:] = [tile.scores.get(key, 0.0) for key in keys]
    return found, table


def _distances(span: slice, end: int) -> np.ndarray:
    """Of the pixels of a tile along one axis to its nearest end, from 1; int32 [length].

    An end of the image at `end` or 0 is none of the tile.
    """
    length = span.stop - span.start
    places = np.arange(length, dtype=np.int32)
    first = places + 1 if span.start > 0 else np.full_like(places, _FAR)
    last = length - places if span.stop < end else np.full_like(places, _FAR)
    return np.minimum(first, last)


def _compact(rows: np.ndarray, count: int) -> Tuple[np.ndarray, np.ndarray]:
    """The R numbers below `count` that an array holds, 0 the first, and which is where.

    Returns:
      int [R], ascending, and integers 0..R-1 of the array's shape.
    """
    is_there = np.zeros(count, bool)
    is_there[rows] = True
    is_there[0] = True
    return np.flatnonzero(is_there), (np.cumsum(is_there) - 1)[rows]


def _find_partners(shared: np.ndarray, old: np.ndarray, own: np.ndarray) -> np.ndarray:
    """Which things of the map and of a tile are one: bool [R, S].

    Args:
      shared: int [R, S], pixels, of all in the part that both cover.
      old, own: [R] and [S] of `_SEGMENT`.
    """
    smaller = np.minimum(shared.sum(axis=1, keepdims=True), shared.sum(axis=0))
    is_one = shared > _MIN_SHARED * smaller
    is_one &= old["is_thing"][:, np.newaxis] & own["is_thing"]
    is_one &= old["category"][:, np.newaxis] == own["category"]
    return is_one


def _ranks(table: np.ndarray, kept: np.ndarray, has_partner: np.ndarray) -> np.ndarray:
    """Who covers whom before depth is asked.

    Args:
      table: [S] of `_SEGMENT`, void the first.
      kept: int [S], pixels that each keeps where depth alone decides.
      has_partner: bool [S].

    Returns:
      int [S].
    """
    is_alone = table["is_thing"] & ~has_partner
    is_kept = kept >= _MIN_KEPT * table["area"]
    ranks = np.full(len(table), _BY_DEPTH)
    ranks[is_alone & is_kept & table["is_whole"]] = _KEPT
    ranks[is_alone & ~is_kept] = _LEFT_OUT
    ranks[VOID] = _VOID
    return ranks
