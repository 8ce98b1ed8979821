"""Measures every combination of batch, threads and concurrency in a process of its own.

Threads are a setting of a whole process, and only a new one shows the time of loading, of the first
request, and the memory of this combination alone.
"""

from __future__ import annotations

import concurrent.futures
import concurrent.futures.process
import dataclasses
import multiprocessing
import os
import time
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from panoptic_tf.serving import decoding
from panoptic_tf.serving.predictor import find_version
from panoptic_tf.serving.throughput import calls, inputs, machine, process

PERCENTILES = (50, 90, 99)

Row = Dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Case:
    """One combination.

    Attributes:
      through: see `calls.open_call`.
      batch_size: images of a request.
      threads: of an operation, and operations at once; None is the runtime's choice.
      concurrency: requests at once.
    """

    through: str
    batch_size: int = 1
    threads: Optional[int] = None
    concurrency: int = 1


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is measured, and how long.

    Attributes:
      model: folder of a SavedModel or of its versions, a .tflite or .onnx file, or an address.
      images: see `inputs`.
      num_requests: measured at most.
      seconds: no request is begun later.
      num_warmup_requests: after the first one and before those that are measured.
      max_pixels: limit of height times width of an image.
      client_options: of an address: arguments of `client.Client`.
    """

    model: str
    images: inputs.Images
    num_requests: int = 100
    seconds: float = 20.0
    num_warmup_requests: int = 3
    max_pixels: int = decoding.MAX_PIXELS
    client_options: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def list_cases(
    model: str,
    *,
    batch_sizes: Sequence[int] = (1,),
    threads: Sequence[Optional[int]] = (None,),
    concurrency: Sequence[int] = (1,),
    decoded: bool = False,
) -> List[Case]:
    """Every combination that a model has.

    Args:
      model: see `Plan`.
      batch_sizes: images of a request; 1 for an address.
      threads: see `Case`; none for an address.
      concurrency: requests at once, of an address.
      decoded: the network alone too, of images that are decoded and scaled already.

    Raises:
      ValueError: there is no such model, or an argument that is not for one of its kind.
    """
    kind = calls.kind_of(model)
    if kind == calls.ADDRESS:
        if decoded or list(threads) != [None] or list(batch_sizes) != [1]:
            raise ValueError(
                f"{model} is served by another process, which batches requests itself: "
                "--batch_sizes, --threads and --decoded are of models that are loaded here."
            )
        return [Case(calls.CLIENT, concurrency=number) for number in concurrency]
    if list(concurrency) != [1]:
        raise ValueError(f"--concurrency is of addresses, and {model} is loaded here.")
    ways = {
        calls.PREDICTOR: list(batch_sizes),
        calls.SIGNATURE: list(batch_sizes) if kind == calls.SAVED_MODEL else [],
        calls.NETWORK: list(batch_sizes) if decoded else [],
    }
    if kind == calls.SAVED_MODEL:  # A list is one image after the other.
        ways[calls.PREDICTOR] = [1]
    return [Case(way, b, t) for t in threads for way, sizes in ways.items() for b in sizes]


def run(plan: Plan, cases: Sequence[Case]) -> Dict[str, Any]:
    """Measures, with a bar of progress.

    Args:
      plan: what.
      cases: of `list_cases`.

    Returns:
      `machine` (see `machine.describe`), `model`, `size_bytes` (null of an address), `images`, and
      `rows`: of each case its attributes, `requests`, `images_per_second`, `cpu_ms_per_image` (time
      of all threads, which other work on the machine hardly changes), `latency_ms_p50`, `_p90` and
      `_p99` of a request, `first_request_seconds`, `load_seconds`, `peak_memory_bytes`; or `error`,
      where its process did not survive it. What the process of a server takes is null.

    Raises:
      ValueError: the model cannot be loaded, or does not take the images.
    """
    report = {
        "machine": machine.describe(),
        "model": plan.model,
        "size_bytes": _size(plan.model),
        "images": plan.images.description,
    }
    with tqdm(cases, unit="case", leave=False) as bar:
        rows = [{**dataclasses.asdict(case), **_in_own_process(plan, case)} for case in bar]
    return {**report, "rows": rows}


def _in_own_process(plan: Plan, case: Case) -> Row:
    pool = concurrent.futures.ProcessPoolExecutor(
        1,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=process.start,
    )
    with pool:
        try:
            return pool.submit(measure, plan, case).result()
        except (concurrent.futures.process.BrokenProcessPool, MemoryError):
            return {"error": "its process was ended, for lack of memory perhaps"}
        except tf.errors.ResourceExhaustedError:
            return {"error": "out of memory"}


def measure(plan: Plan, case: Case) -> Row:
    """Measures one case in this process, which must not have used TensorFlow if it sets threads.

    Returns:
      See `run`.

    Raises:
      ValueError: the model cannot be loaded, or does not take the images.
    """
    if case.threads is not None:
        tf.config.threading.set_intra_op_parallelism_threads(case.threads)
        tf.config.threading.set_inter_op_parallelism_threads(case.threads)
    images = inputs.read(plan.images)
    load_seconds, call = _timed(
        calls.open_call,
        plan.model,
        case.through,
        num_threads=case.threads,
        max_pixels=plan.max_pixels,
        client_options={"connections": case.concurrency, **plan.client_options},
    )
    requests = [call.prepare(batch) for batch in _batches(images, case.batch_size)]
    first_seconds, _ = _timed(call, requests[0])
    for number in range(plan.num_warmup_requests):
        call(requests[number % len(requests)])
    cpu_start = time.process_time()
    seconds, latencies = _timed(_answer, plan, case, call, requests)
    cpu_seconds = time.process_time() - cpu_start
    num_images, is_here = len(latencies) * case.batch_size, case.through != calls.CLIENT
    return {
        "requests": len(latencies),
        "images_per_second": num_images / seconds,
        "cpu_ms_per_image": 1e3 * cpu_seconds / num_images if is_here else None,
        **{f"latency_ms_p{p}": 1e3 * float(np.percentile(latencies, p)) for p in PERCENTILES},
        "first_request_seconds": first_seconds,
        "load_seconds": load_seconds,
        "peak_memory_bytes": machine.peak_memory() if is_here else None,
    }


def _timed(function: Any, *arguments: Any, **options: Any) -> Tuple[float, Any]:
    start = time.perf_counter()
    result = function(*arguments, **options)
    return time.perf_counter() - start, result


def _batches(images: Sequence[inputs.NamedImage], batch_size: int) -> List[List[inputs.NamedImage]]:
    """Requests in which every image occurs; the last begins again with the first ones."""
    starts = range(0, len(images), batch_size)
    return [[images[(s + i) % len(images)] for i in range(batch_size)] for s in starts]


def _answer(plan: Plan, case: Case, call: calls.Call, requests: Sequence[Any]) -> List[float]:
    """Seconds of each request."""
    end = time.perf_counter() + plan.seconds

    def answer(number: int) -> Optional[float]:
        if number and time.perf_counter() >= end:
            return None
        return _timed(call, requests[number % len(requests)])[0]

    with concurrent.futures.ThreadPoolExecutor(case.concurrency) as pool:
        seconds = list(pool.map(answer, range(plan.num_requests)))
    return [s for s in seconds if s is not None]


def _size(model: str) -> Optional[int]:
    """Bytes of a model's files."""
    kind = calls.kind_of(model)
    if kind == calls.ADDRESS:
        return None
    if kind != calls.SAVED_MODEL:
        return os.path.getsize(model)
    found = os.walk(find_version(model))
    return sum(os.path.getsize(os.path.join(f, name)) for f, _, names in found for name in names)
