"""Apache Beam in place of the pool of processes: the workers of its runners do the tasks.

The elements of the pipeline are numbers. Tasks and results are files, in a folder that this process
and all workers see: they may be larger than what a runner takes, and results come as they are done
from every runner. A task whose file is gone is not wanted any more.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import io
import os
import pickle
import shutil
import time
import uuid
from typing import Any, Callable, Iterator, List, Sequence, TypeVar

import apache_beam
from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions
from apache_beam.runners import runner
from apache_beam.runners.portability.portable_runner import PortableRunner

from panoptic_tf.datasets import beam, files

Task = TypeVar("Task")
Result = TypeVar("Result")

_TASK, _RESULT = ".task", ".result"

_DEFAULTS = ("--runner=FnApiRunner", "--default_sdk_harness_log_level=WARNING")
"""FnApiRunner is what DirectRunner is, unless it can download another program, Prism."""

_SECONDS_BETWEEN_LOOKS = 0.2
_LOOKS_AFTER_THE_END = 300
"""A shared file system may show for a minute what it knew before."""


class _Work(apache_beam.DoFn):
    """Does the tasks of a folder.

    Args:
      folder: of the tasks and results.
      start: see `map_unordered`.
    """

    def __init__(self, folder: str, start: Callable[[], Callable[[Any], Any]]):
        self._folder = folder
        self._start = start

    def setup(self) -> None:
        """Prepares this worker."""
        self._function = self._start()

    def process(self, element: int) -> None:
        """Does one task; an error is a result."""
        if not os.path.isdir(self._folder):
            raise OSError(f"{self._folder}: a worker does not see this folder.")
        path = _task_path(self._folder, element)
        if not os.path.exists(path):
            return
        try:
            done = True, self._function(_load(path))
        except Exception as error:
            done = False, _portable(error)
        _save(_result_path(self._folder, element), done)


def _portable(error: Exception) -> Exception:
    """The error, or one of its words where it does not pickle."""
    try:
        return pickle.loads(pickle.dumps(error))
    except Exception:
        return OSError(f"{type(error).__name__}: {error}")


def parse_options(options: Sequence[str]) -> PipelineOptions:
    """Reads Beam's options.

    Args:
      options: `--name=value`, the dashes may be missing.

    Raises:
      ValueError: there is no such runner or option, or a value is wrong.
    """
    dashed = [option if option.startswith("-") else f"--{option}" for option in options]
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            parsed = PipelineOptions([*_DEFAULTS, *dashed])
            everything = parsed.get_all_options(retain_unknown_options=True)
        chosen = runner.create_runner(parsed.view_as(StandardOptions).runner)
    except SystemExit as error:  # of argparse
        reason = said.getvalue().strip().split("error: ")[-1]
        raise ValueError(f"beam_options: {reason}") from error
    except (AttributeError, ImportError, ValueError) as error:
        raise ValueError(f"beam_options: {error}") from error
    # Servers of jobs, which portable runners ask, have options that Beam does not know here.
    if not isinstance(chosen, PortableRunner):
        unknown = sorted(everything.keys() - PipelineOptions(_DEFAULTS).get_all_options().keys())
        if unknown:
            raise ValueError(f"beam_options: Beam has no option {unknown[0]!r}.")
    return parsed


def map_unordered(
    start: Callable[[], Callable[[Task], Result]],
    tasks: Sequence[Task],
    folder: str,
    name: str,
    options: Sequence[str],
) -> Iterator[Result]:
    """Calls a function in the workers of a runner, and yields the results as they come.

    Args:
      start: called once in each worker, returns the function; it, the tasks and the results pickle.
      tasks: its arguments, one a call.
      folder: workers read and write files in it; a folder in it is removed at the end.
      name: of the job. A job of the same name and folder that was killed is cleared away.
      options: see `parse_options`.

    Raises:
      ValueError: see `parse_options`.
      OSError: the job failed; and what the function raises.
    """
    parsed = parse_options(options)
    beam.clear(folder, name)
    exchange = beam.exchange_prefix(folder, name) + uuid.uuid4().hex
    os.makedirs(exchange, mode=0o700)  # What is unpickled comes from this user alone.
    paths = [_task_path(exchange, number) for number in range(len(tasks))]
    try:
        for path, task in zip(paths, tasks):
            _save(path, task)
        # `run` of some runners returns at the end only.
        with concurrent.futures.ThreadPoolExecutor(1) as executor:
            job = executor.submit(_run, parsed, exchange, start, len(tasks))
            try:
                yield from _results(exchange, len(tasks), job)
            finally:
                _remove(paths)
    finally:
        shutil.rmtree(exchange, ignore_errors=True)


def _run(
    options: PipelineOptions, folder: str, start: Callable[[], Callable], num_tasks: int
) -> None:
    pipeline = apache_beam.Pipeline(options=options)
    numbers = pipeline | apache_beam.Create(range(num_tasks)) | apache_beam.Reshuffle()
    numbers | apache_beam.ParDo(_Work(folder, start))
    pipeline.run().wait_until_finish()


def _results(folder: str, num_tasks: int, job: concurrent.futures.Future) -> Iterator[Any]:
    """Yields results until all are there; raises the first error among them."""
    missing = set(range(num_tasks))
    looks_left = _LOOKS_AFTER_THE_END
    while missing:
        is_over = job.done()
        there = {name for name in os.listdir(folder) if name.endswith(_RESULT)}
        for number in sorted(n for n in missing if f"{n}{_RESULT}" in there):
            missing.remove(number)
            is_good, result = _load(_result_path(folder, number))
            _remove([_task_path(folder, number), _result_path(folder, number)])
            if not is_good:
                raise result
            yield result
        if is_over and missing:
            looks_left -= 1
            _check_end(job, len(missing), looks_left)
        if missing:
            time.sleep(_SECONDS_BETWEEN_LOOKS)


def _check_end(job: concurrent.futures.Future, num_missing: int, looks_left: int) -> None:
    """Raises what is wrong with a job that ended without all results."""
    error = job.exception()
    if error is not None:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise OSError(f"the job of Apache Beam failed: {reason[-1]}") from error
    if not looks_left:
        raise OSError(
            f"the job of Apache Beam ended, but {num_missing} of its results are missing."
        )


def _remove(paths: List[str]) -> None:
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


def _task_path(folder: str, number: int) -> str:
    return os.path.join(folder, f"{number}{_TASK}")


def _result_path(folder: str, number: int) -> str:
    return os.path.join(folder, f"{number}{_RESULT}")


def _save(path: str, value: Any) -> None:
    files.write_bytes(path, pickle.dumps(value))


def _load(path: str) -> Any:
    with open(path, "rb") as file:
        return pickle.load(file)
