"""Muon's iteration on the singular values of a matrix, in NumPy."""

import numpy as np


def orthogonalize(matrix, num_steps=5):
    """X <- a X + b (X X^T) X + c (X X^T)^2 X leaves singular vectors: only values change."""
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    values = values / np.linalg.norm(values)
    for _ in range(num_steps):
        values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
    return (left * values) @ right
