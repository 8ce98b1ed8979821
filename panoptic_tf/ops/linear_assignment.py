"""Linear assignment: rows to columns at the smallest total cost, many matrices at once.

Shortest augmenting paths (Jonker and Volgenant, Computing 38, 1987; D. Crouse, "On implementing 2D
rectangular assignment algorithms", IEEE Transactions on Aerospace and Electronic Systems 52, 2016,
which is what SciPy computes). Rows are assigned one after another; for each, all matrices search
their shortest path together.
"""

from __future__ import annotations

from typing import NamedTuple, Tuple

import tensorflow as tf

# In float64 a difference of 1e-5 still counts beside it.
_LARGEST = 1e10


class _Search(NamedTuple):
    """Where the searches of N matrices are, each from the row that it is to assign.

    Attributes:
      row: int64 [N], whose costs are looked at next.
      offset: float64 [N], what the way to that row takes off its costs.
      column: int64 [N], the nearest column that is not done; -1 before the first.
      length: float64 [N], of the shortest path to that column.
      owner: int64 [N], the row that has that column, -1 where it is free and the search over.
      distance: float64 [N, Q], length of the shortest path found to each column.
      parent: int64 [N, Q], the column before it on that path, -1 for none.
      is_done: bool [N, Q], columns whose distance is final and which another row has.
    """

    row: tf.Tensor
    offset: tf.Tensor
    column: tf.Tensor
    length: tf.Tensor
    owner: tf.Tensor
    distance: tf.Tensor
    parent: tf.Tensor
    is_done: tf.Tensor


def linear_assignment(costs: tf.Tensor, valid: tf.Tensor) -> tf.Tensor:
    """Gives each valid row a column of its own, so that their costs have the smallest sum.

    Exact: the sum is the smallest, and where several assignments have it, one of them is taken. It
    takes at most M Q steps on tables [N, Q], usually some M; invalid rows take none if they are
    last. Computed in float64, without a gradient.

    Args:
      costs: any float dtype [..., M, Q], M <= Q. Whatever is not finite counts as 1e10, and what is
        beyond -1e10..1e10 as the nearer of these.
      valid: bool [..., M], rows that get a column.

    Returns:
      int64 [..., M], the column of each row; -1 for rows that are not valid.

    Raises:
      ValueError: there are more rows than columns.
    """
    if costs.shape[-2] is not None and costs.shape[-2] > costs.shape[-1]:
        raise ValueError(
            f"linear_assignment needs at least as many columns as rows, got {costs.shape}."
        )
    shape, (rows, columns) = tf.shape(valid), tf.unstack(tf.shape(costs)[-2:])
    is_row = tf.reshape(valid, [-1, rows])  # [N, M]
    costs = tf.reshape(_bounded(tf.stop_gradient(costs)), [-1, rows, columns])  # [N, M, Q]
    numbers = tf.range(tf.cast(rows, tf.int64))
    end = tf.reduce_max(tf.where(is_row, numbers + 1, 0))

    def assign(
        row: tf.Tensor, owners: tf.Tensor, prices: tf.Tensor
    ) -> Tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        is_active = tf.gather(is_row, row, axis=1)  # [N]
        search = _search(costs, owners, prices, row, is_active)
        is_found = is_active & (search.owner < 0)
        change = search.distance - search.length[:, tf.newaxis]
        is_cheaper = search.is_done & is_found[:, tf.newaxis]
        prices += tf.where(is_cheaper, change, tf.zeros_like(prices))
        path_end = tf.where(is_found, search.column, -1)
        return row + 1, _augment(owners, search.parent, path_end, row), prices

    free = -tf.ones_like(costs[:, 0], tf.int64)  # [N, Q]
    _, owners, _ = tf.while_loop(
        lambda row, *_: row < end,
        assign,
        (tf.constant(0, tf.int64), free, tf.zeros_like(costs[:, 0])),
        parallel_iterations=1,
    )
    is_own = owners[:, tf.newaxis] == numbers[:, tf.newaxis]  # [N, M, Q]
    found = tf.reduce_max(tf.where(is_own, tf.range(tf.cast(columns, tf.int64)), -1), axis=-1)
    return tf.reshape(found, shape)


def _bounded(costs: tf.Tensor) -> tf.Tensor:
    costs = tf.cast(costs, tf.float64)
    largest = tf.constant(_LARGEST, tf.float64)
    costs = tf.where(tf.math.is_finite(costs), costs, largest)
    return tf.clip_by_value(costs, -largest, largest)


def _search(
    costs: tf.Tensor, owners: tf.Tensor, prices: tf.Tensor, row: tf.Tensor, is_active: tf.Tensor
) -> _Search:
    """The shortest path from a row to a free column, over costs reduced by prices.

    From a column the path goes on to the row that has it, whose own column costs it nothing.

    Args:
      costs: float64 [N, M, Q].
      owners: int64 [N, Q], the row of each column, -1 where it is free.
      prices: float64 [N, Q].
      row: int64 [], to be assigned.
      is_active: bool [N], matrices where it is; the others are not waited for.
    """
    none = tf.fill(tf.shape(is_active), tf.constant(-1, tf.int64))
    start = _Search(
        row=tf.fill(tf.shape(is_active), row),
        offset=tf.zeros_like(none, tf.float64),
        column=none,
        length=tf.zeros_like(none, tf.float64),
        owner=tf.zeros_like(none),
        distance=tf.fill(tf.shape(prices), tf.constant(float("inf"), tf.float64)),
        parent=-tf.ones_like(owners),
        is_done=tf.zeros_like(owners, tf.bool),
    )

    # Where a search is over, another step changes nothing.
    def step(*state: tf.Tensor) -> _Search:
        search = _Search(*state)
        reduced = tf.gather(costs, search.row, axis=1, batch_dims=1) - prices  # [N, Q]
        through = reduced - search.offset[:, tf.newaxis]
        is_shorter = (through < search.distance) & ~search.is_done
        distance = tf.where(is_shorter, through, search.distance)
        parent = tf.where(is_shorter, search.column[:, tf.newaxis], search.parent)
        open_distance = tf.where(search.is_done, distance.dtype.max, distance)
        column = tf.argmin(open_distance, axis=1)
        length = tf.reduce_min(open_distance, axis=1)
        owner = tf.gather(owners, column, axis=1, batch_dims=1)
        is_over = owner < 0
        row = tf.where(is_over, search.row, owner)
        # The reduced cost of the row's own column, less the way there.
        own = tf.gather_nd(costs, tf.stack([row, column], axis=1), batch_dims=1)
        price = tf.gather(prices, column, axis=1, batch_dims=1)
        taken = _one_hot(column, owners) & ~is_over[:, tf.newaxis]
        return _Search(
            row=row,
            offset=tf.where(is_over, search.offset, own - price - length),
            column=column,
            length=length,
            owner=owner,
            distance=distance,
            parent=parent,
            is_done=search.is_done | taken,
        )

    return _Search(
        *tf.while_loop(
            lambda *state: tf.reduce_any(is_active & (_Search(*state).owner >= 0)),
            step,
            start,
            # Every step is done with a column.
            maximum_iterations=tf.shape(prices)[1],
            parallel_iterations=1,
        )
    )


def _augment(owners: tf.Tensor, parents: tf.Tensor, column: tf.Tensor, row: tf.Tensor) -> tf.Tensor:
    """Hands every column of a path to the row before it, the first to the row that had none.

    Args:
      owners: int64 [N, Q].
      parents: int64 [N, Q]; see `_Search`.
      column: int64 [N], the last of the path, -1 for none.
      row: int64 [].

    Returns:
      The new owners.
    """

    def hand_over(column: tf.Tensor, owners: tf.Tensor) -> Tuple[tf.Tensor, tf.Tensor]:
        parent = tf.gather(parents, tf.maximum(column, 0), axis=1, batch_dims=1)
        before = tf.gather(owners, tf.maximum(parent, 0), axis=1, batch_dims=1)
        owner = tf.where(parent < 0, row, before)
        owners = tf.where(_one_hot(column, owners), owner[:, tf.newaxis], owners)
        return tf.where(column < 0, column, parent), owners

    _, owners = tf.while_loop(
        lambda column, _: tf.reduce_any(column >= 0),
        hand_over,
        (column, owners),
        parallel_iterations=1,
    )
    return owners


def _one_hot(column: tf.Tensor, table: tf.Tensor) -> tf.Tensor:
    """Bool [N, Q] of int64 [N]; nothing where that is -1."""
    numbers = tf.range(tf.shape(table, tf.int64)[1])
    return numbers == column[:, tf.newaxis]
