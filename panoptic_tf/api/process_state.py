"""What a run sets for its whole process, put back when it ends."""

from __future__ import annotations

import contextlib
import signal
import threading
from typing import Iterator

import tensorflow as tf


@contextlib.contextmanager
def kept() -> Iterator[None]:
    """Puts back Keras' dtype policy, the step of summaries and the handler of SIGTERM.

    Only the main thread can set handlers; in others none has been changed.
    """
    policy = tf.keras.mixed_precision.global_policy()
    step = tf.summary.experimental.get_step()
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        tf.keras.mixed_precision.set_global_policy(policy)
        tf.summary.experimental.set_step(step)
        if threading.current_thread() is threading.main_thread() and handler is not None:
            signal.signal(signal.SIGTERM, handler)
