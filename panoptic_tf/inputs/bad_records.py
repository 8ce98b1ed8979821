"""Records that cannot be decoded: named, and skipped up to a number.

A function that fails inside of tf.data names neither file nor image. To name them it runs in a data
set of one element, which ignores errors; what failed is run once more in Python, to say why. That
costs some time, so it is done where records may be skipped, and once something has failed. Python
counts, so records cannot be skipped in the workers of a tf.data service.
"""

from __future__ import annotations

import contextlib
import re
import threading
from typing import Any, Callable, List, Optional, Sequence, Tuple

import numpy as np
import tensorflow as tf
from absl import logging

from panoptic_tf.datasets import files, record
from panoptic_tf.structures import Tensors

_NOTES = re.compile(r"\{\{.*?\}\}|\[Op:\w+\].*|^\w*(Error|Exception): ", re.DOTALL)
_REPORTED = re.compile(r"BadRecordError: (.*)")


class BadRecordError(ValueError):
    """A record cannot be decoded, and no more of them may be skipped."""


def reported_by(error: tf.errors.OpError) -> Optional[str]:
    """The message of the `BadRecordError` that ended an iteration, or None if another error did."""
    found = _REPORTED.search(error.message or "")
    return found[1] if found else None


class BadRecords:
    """Decodes records of which some may be bad.

    Every bad record is counted once, however often it is read.
    """

    def __init__(
        self,
        paths: Sequence[str],
        *,
        max_bad_records: int,
        num_records: Optional[int],
        name: str = "max_bad_records",
    ):
        """See the class.

        Args:
          paths: the files.
          max_bad_records: how many to skip; one more is an error.
          num_records: of all files, or None if not known; all of them bad is an error as well.
          name: of the setting, for error messages.
        """
        self._paths = list(paths)
        self._max = max_bad_records
        self._total = num_records
        self._name = name
        self._lock = threading.Lock()
        self._found: set = set()

    def decode(
        self, dataset: tf.data.Dataset, function: Callable[[tf.Tensor], Tensors]
    ) -> tf.data.Dataset:
        """Decodes records; leaves out the bad ones where some may be skipped.

        Args:
          dataset: of (position int64 [2], serialized string [], ...); a position is (index of the
            file, number of the record in it).
          function: decodes one serialized record.

        Returns:
          Dataset of (example, ...).
        """
        if not self._max:
            return dataset.map(
                lambda position, serialized, *rest: (function(serialized), *rest),
                num_parallel_calls=tf.data.AUTOTUNE,
            )
        return self.decode_apart(dataset, function)

    def decode_apart(
        self, dataset: tf.data.Dataset, function: Callable[[tf.Tensor], Tensors]
    ) -> tf.data.Dataset:
        """As `decode`, but slower, and the error of one bad record too many names it."""

        def decode_one(position: tf.Tensor, serialized: tf.Tensor, *rest: tf.Tensor):
            is_good, example = attempt(serialized, function)
            is_good = tf.cond(
                is_good, lambda: True, lambda: self._report(position, serialized, function)
            )
            return is_good, (example, *rest)

        decoded = dataset.map(decode_one, num_parallel_calls=tf.data.AUTOTUNE)
        return decoded.filter(lambda is_good, _: is_good).map(lambda _, element: element)

    def _report(
        self, position: tf.Tensor, serialized: tf.Tensor, function: Callable[[tf.Tensor], Tensors]
    ) -> tf.Tensor:
        def report(position: np.ndarray, content: bytes) -> np.ndarray:
            file, number = position.tolist()
            self._count(file, number, content, _reason(function, content))
            return np.asarray(False)

        is_good = tf.numpy_function(report, [position, serialized], tf.bool)
        return tf.ensure_shape(is_good, [])

    def _count(self, file: int, number: int, content: bytes, reason: str) -> None:
        with self._lock:
            if (file, number) in self._found:
                return
            self._found.add((file, number))
            where = f"{self._paths[file]}: record {number}"
            text = files.shorten(", ".join([where, *_image(content)])) + f": {reason}"
            if len(self._found) > self._max:
                before = f", and {self._max} were skipped before" if self._max else ""
                raise BadRecordError(
                    f"{text}{before}. Convert it again, or raise {self._name} to skip more."
                )
            if len(self._found) == self._total:
                raise BadRecordError(f"{text}. Not one of the {self._total} records can be used.")
            logging.warning("%s. Skipped: %d of %d.", text, len(self._found), self._max)


def attempt(serialized: tf.Tensor, function: Callable[[tf.Tensor], Any]) -> Tuple[tf.Tensor, Any]:
    """What a function makes of a record, or blank tensors where it fails.

    Args:
      serialized: string [].
      function: of that.

    Returns:
      Whether it did not fail, bool [], and its result.
    """
    one = tf.data.Dataset.from_tensors(serialized).map(lambda x: (True, function(x)))
    instead = tf.data.Dataset.from_tensors((False, blank(one.element_spec[1])))
    return one.ignore_errors().concatenate(instead).take(1).get_single_element()


def blank(specification: Any) -> Any:
    """Tensors of a structure of `tf.TensorSpec`: zeros, of length 0 where that is not known."""
    return tf.nest.map_structure(
        lambda spec: tf.zeros([size or 0 for size in spec.shape], spec.dtype), specification
    )


def find_bad_record(
    dataset: tf.data.Dataset,
    function: Callable[[tf.Tensor], Tensors],
    paths: Sequence[str],
    *,
    name: str,
) -> Optional[str]:
    """What is wrong with the first bad record, or None; decodes all of them up to it.

    Args:
      dataset, function: see `BadRecords.decode`.
      paths, name: see `BadRecords`.
    """
    search = BadRecords(paths, max_bad_records=0, num_records=None, name=name)
    try:
        for _ in search.decode_apart(dataset, function):
            pass
    except tf.errors.OpError as error:
        return reported_by(error)
    return None


def _image(content: bytes) -> List[str]:
    """The image of a record, as far as that can be read."""
    parts = []
    with contextlib.suppress(Exception):
        (image_id,) = record.read_bytes(content, record.Field.IMAGE_ID)
        parts.append(f"image_id {image_id.decode()}")
        (file_name,) = record.read_bytes(content, record.Field.FILE_NAME)
        parts.append(repr(file_name.decode()))
    return parts


def _reason(function: Callable[[tf.Tensor], Tensors], content: bytes) -> str:
    """Why a record cannot be decoded, in one line."""
    try:
        function(tf.constant(content))
    except Exception as error:
        text = error.message if isinstance(error, tf.errors.OpError) else str(error)
        text = _NOTES.sub("", text or type(error).__name__).strip().split("\n")[0].rstrip(". ")
        return f"cannot be decoded ({files.shorten(text)})"
    return "failed once and not when it was tried again: memory may have run out"
