"""Processes that work for this one, and end with it."""

from __future__ import annotations

import concurrent.futures
import concurrent.futures.process
import multiprocessing
import multiprocessing.process
import os
import threading
from typing import Callable, Iterator, Sequence, TypeVar

from panoptic_tf.datasets import images

Task = TypeVar("Task")
Result = TypeVar("Result")


def map_unordered(
    function: Callable[[Task], Result], tasks: Sequence[Task], num_processes: int
) -> Iterator[Result]:
    """Calls a function in other processes, and yields the results as they come.

    Args:
      function: of a module, as its process imports it.
      tasks: its arguments, one a call.
      num_processes: at least 1.

    Raises:
      OSError: a process was ended from outside; and what the function raises.
    """
    pool = concurrent.futures.ProcessPoolExecutor(
        num_processes,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_start_worker,
    )
    try:
        futures = [pool.submit(function, task) for task in tasks]
        for future in concurrent.futures.as_completed(futures):
            yield future.result()
    except concurrent.futures.process.BrokenProcessPool as error:
        raise OSError(
            "a worker process was ended from outside, for lack of memory perhaps. Set fewer "
            "--num_processes; the same command resumes the conversion."
        ) from error
    finally:
        for future in futures:
            future.cancel()
        pool.shutdown(wait=True)


def _start_worker() -> None:
    end_with_parent()
    images.decode_on_cpu()


def end_with_parent() -> None:
    """Ends this worker when the process that started it is gone, killed without a word included."""
    parent = multiprocessing.parent_process()

    def wait(process: multiprocessing.process.BaseProcess) -> None:
        process.join()
        os._exit(1)

    if parent is not None:
        threading.Thread(target=wait, args=(parent,), daemon=True).start()
