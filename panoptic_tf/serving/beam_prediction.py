"""Predicting many files by the workers of an Apache Beam runner."""

from __future__ import annotations

import functools
from typing import Any, Callable, Dict, List, NamedTuple, Sequence

from tqdm import tqdm

from panoptic_tf.datasets import beam
from panoptic_tf.serving import prediction
from panoptic_tf.serving.predictor import Predictor
from panoptic_tf.serving.writers.base import ImageFile, Writer

_IMAGES_PER_TASK = 32


class _Task(NamedTuple):
    """Images that follow each other, and writers that have none yet."""

    number: int
    images: Sequence[ImageFile]
    writers: Sequence[Writer]


class _Done(NamedTuple):
    """What a task leaves for the whole: messages, and what each writer has kept."""

    number: int
    failures: List[str]
    kept: List[Any]


def by_beam(
    load: Callable[[], Predictor], output_dir: str, options: Sequence[str]
) -> prediction.PredictImages:
    """What `prediction.predict_files` takes as `predict_images`, to have workers predict.

    Args:
      load: loads the predictor in a worker; may be sent to other processes.
      output_dir: that of `predict_files`.
      options: see `beam_pool.parse_options`. Workers see the same files by the same names.

    Raises:
      ValueError: see `beam_pool.parse_options`; and when it is called, what `map_unordered` raises.
    """
    beam.require_pool().parse_options(options)
    return functools.partial(_predict_images, load, output_dir, options)


def _predict_images(
    load: Callable[[], Predictor],
    output_dir: str,
    options: Sequence[str],
    _: Predictor,
    images: Sequence[ImageFile],
    writers: Sequence[Writer],
) -> List[str]:
    """Has workers predict; the files that hold all images are left to the writers here."""
    starts = range(0, len(images), _IMAGES_PER_TASK)
    tasks = [
        _Task(number, images[start : start + _IMAGES_PER_TASK], writers)
        for number, start in enumerate(starts)
    ]
    pool = beam.require_pool()
    start_worker = functools.partial(_start_worker, load)
    done: Dict[int, _Done] = {}
    with tqdm(total=len(images), unit="image") as bar:
        for one in pool.map_unordered(start_worker, tasks, output_dir, "predict", options):
            done[one.number] = one
            bar.update(len(tasks[one.number].images))
    failures = []
    for number in range(len(tasks)):
        failures += done[number].failures
        for writer, kept in zip(writers, done[number].kept):
            writer.join(kept)
    return failures


def _start_worker(load: Callable[[], Predictor]) -> Callable[[_Task], _Done]:
    return functools.partial(_predict, load())


def _predict(predictor: Predictor, task: _Task) -> _Done:
    failures = prediction.predict_here(predictor, task.images, task.writers, show_progress=False)
    return _Done(task.number, failures, [writer.kept() for writer in task.writers])
