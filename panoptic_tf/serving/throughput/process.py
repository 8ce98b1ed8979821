"""The start of a process that measures; imports nothing heavy itself."""

from __future__ import annotations

import warnings


def start() -> None:
    """Leaves out a package's warning at its import, and ends the process with its parent."""
    warnings.filterwarnings("ignore", category=FutureWarning, module="google")
    from panoptic_tf.datasets import worker_pool

    worker_pool.end_with_parent()
