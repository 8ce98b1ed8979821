"""The way to Apache Beam: an extra of the installation, imported only by those who ask for it."""

from __future__ import annotations

import glob
import logging
import os
import shutil
import types


def require_pool() -> types.ModuleType:
    """Imports `beam_pool`.

    Raises:
      ValueError: Apache Beam is not installed.
    """
    # It warns of its own extras that are missing.
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        from panoptic_tf.datasets import beam_pool
    except ImportError as error:
        raise ValueError(
            f"the runner beam needs Apache Beam, which cannot be imported ({error}). Install it "
            "with `pip install 'panoptic-tf[beam]'`."
        ) from error
    finally:
        logging.disable(disabled)
    return beam_pool


def exchange_prefix(folder: str, name: str) -> str:
    """How the folder of a job's tasks and results begins, in `folder`."""
    return os.path.join(os.path.abspath(folder), f".{name}.beam-")


def clear(folder: str, name: str) -> None:
    """Removes what a job that was killed has left; its workers do nothing from then on."""
    for left in glob.glob(f"{glob.escape(exchange_prefix(folder, name))}*"):
        shutil.rmtree(left)
