"""Matchings and losses of transformers' mask transformers, with the points that they draw.

For `transformers_mask_transformer.py`.
"""

from __future__ import annotations

import contextlib
import functools
from typing import Any, Callable, Dict, List, Tuple
from unittest import mock

import mask_transformer_cases as cases
import numpy as np
import torch
from transformers.models.mask2former import modeling_mask2former
from transformers.models.maskformer import modeling_maskformer

Arrays = Dict[str, np.ndarray]


class _Recorder:
    """Gives transformers the points that it draws, and notes them and every matching.

    Args:
      counts: of matched masks of each image.
      num_points: of matching and loss.
      is_shared: whether masks and predictions share the points of their image. They have points
        of their own in transformers.
    """

    def __init__(self, counts: np.ndarray, num_points: int, is_shared: bool):
        self._images = np.repeat(np.arange(len(counts)), counts)
        self._batch = len(counts)
        self._num_points = num_points
        self._random = np.random.RandomState(1)
        self._is_shared = is_shared
        self._shared: Dict[int, np.ndarray] = {}
        self.drawn: Dict[int, List[np.ndarray]] = {}
        self.costs: List[np.ndarray] = []
        self.matches: List[Tuple[np.ndarray, np.ndarray]] = []
        self.chosen: List[np.ndarray] = []

    def _draw(self, *shape: int) -> np.ndarray:
        return self._random.random_sample(shape).astype(np.float32)

    def rand(self, *shape: int, device: Any = None) -> torch.Tensor:
        """In place of `torch.rand`."""
        drawn = self.drawn.setdefault(shape[1], [])
        if self._is_shared:
            if shape[1] not in self._shared:
                self._shared[shape[1]] = self._draw(self._batch, *shape[1:])
            is_matching = shape[1] == self._num_points
            images = [len(drawn) % self._batch] if is_matching else self._images
            drawn.append(self._shared[shape[1]][images])
        else:
            drawn.append(self._draw(*shape))
        return torch.from_numpy(drawn[-1].copy())

    def choose(self, choose: Callable[..., torch.Tensor], *arguments: Any) -> torch.Tensor:
        """Around the choice of points of a loss."""
        points = choose(*arguments)
        self.chosen.append(points.numpy())
        return points

    def assign(self, assign: Callable[..., Any], costs: torch.Tensor) -> Any:
        """Around SciPy's assignment."""
        self.costs.append(costs.numpy())
        self.matches.append(assign(costs))
        return self.matches[-1]


def run(
    model: torch.nn.Module, predictions: Arrays, truth: cases.Truth, is_shared: bool = False
) -> Arrays:
    """Matchings and losses of all predictions.

    Args:
      model: gives criterion and weights.
      predictions: class_logits [B, L, Q, K + 1], mask_embeddings [B, L, Q, C] and mask_features
        [B, h, w, C], float32.
      truth: of the same images.
      is_shared: see `_Recorder`.

    Returns:
      matches int64 [L, B, M], the query of each segment, -1 without; costs float32 [L, B, Q, M];
      rows int64 [L, N, 3], image, query and segment of the matched masks in their order;
      loss_cross_entropy, loss_mask, loss_dice float32 [L], weighted; loss; gradient_* of it. With
      points, in 0..1 and (x, y): matching_points [L, B, P, 2], candidate_points [L, N, 3P, 2],
      random_points [L, N, P / 4, 2], chosen_points [L, N, P, 2].
    """
    leaves = {name: torch.tensor(x, requires_grad=True) for name, x in predictions.items()}
    logits = torch.einsum("blqc,bhwc->lbqhw", leaves["mask_embeddings"], leaves["mask_features"])
    layers = [
        {"masks_queries_logits": masks, "class_queries_logits": classes}
        for masks, classes in zip(logits, leaves["class_logits"].transpose(0, 1))
    ]
    batch, queries = logits.shape[1:3]
    counts = np.minimum((truth.classes >= 0).sum(axis=1), queries)
    has_points = hasattr(model.criterion, "num_points")
    num_points = model.criterion.num_points if has_points else 0
    recorder = _Recorder(counts, num_points, is_shared)
    module = modeling_mask2former if has_points else modeling_maskformer
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(torch, "rand", recorder.rand))
        stack.enter_context(_around(module, "linear_sum_assignment", recorder.assign))
        if has_points:
            choice = "sample_points_using_uncertainty"
            stack.enter_context(_around(model.criterion, choice, recorder.choose))
        losses = model.get_loss_dict(
            *layers[-1].values(),
            [torch.from_numpy(truth.masks(image)) for image in range(batch)],
            [torch.from_numpy(classes[classes >= 0]) for classes in truth.classes],
            layers[:-1],
        )
    total = model.get_loss(losses)
    total.backward()
    arrays = {"loss": total.detach().numpy()}
    suffixes = [*(f"_{i}" for i in range(len(layers) - 1)), ""]
    for name in ("loss_cross_entropy", "loss_mask", "loss_dice"):
        arrays[name] = np.stack([losses[name + suffix].detach().numpy() for suffix in suffixes])
    for name, leaf in leaves.items():
        arrays[f"gradient_{name}"] = leaf.grad.numpy()
    arrays.update(_matching_arrays(recorder, truth.classes.shape, len(layers), queries))
    if has_points:
        arrays.update(_point_arrays(recorder, num_points, batch))
    return arrays


def _around(owner: Any, name: str, wrapper: Callable[..., Any]) -> Any:
    return mock.patch.object(owner, name, functools.partial(wrapper, getattr(owner, name)))


def _in_order(recorded: List[Any]) -> List[Any]:
    """Of predictions; transformers begins with the last."""
    return [*recorded[1:], recorded[0]]


def _matching_arrays(
    recorder: _Recorder, truth_shape: Tuple[int, int], layers: int, queries: int
) -> Arrays:
    batch, segments = truth_shape
    costs = np.full((layers, batch, queries, segments), np.nan, np.float32)
    matches = np.full((layers, batch, segments), -1, np.int64)
    rows = []
    for call in range(layers):
        layer = (call - 1) % layers
        found = []
        for image in range(batch):
            cost = recorder.costs[call * batch + image]
            query, segment = recorder.matches[call * batch + image]
            costs[layer, image, :, : cost.shape[1]] = cost
            matches[layer, image, segment] = query
            found.append(np.stack([np.full_like(query, image), query, segment], axis=-1))
        rows.append(np.concatenate(found))
    return {"costs": costs, "matches": matches, "rows": np.stack(_in_order(rows))}


def _point_arrays(recorder: _Recorder, num_points: int, batch: int) -> Arrays:
    drawn = {
        count: np.stack(points) for count, points in recorder.drawn.items() if count != num_points
    }
    candidates, rest = max(drawn), min(drawn)
    matching = np.concatenate(recorder.drawn[num_points])
    return {
        "matching_points": np.stack(_in_order(list(matching.reshape(-1, batch, num_points, 2)))),
        "candidate_points": np.stack(_in_order(list(drawn[candidates]))),
        "random_points": np.stack(_in_order(list(drawn[rest]))),
        "chosen_points": np.stack(_in_order(recorder.chosen)),
    }
