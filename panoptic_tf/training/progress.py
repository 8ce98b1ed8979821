"""What a run shows while it goes on: a bar on a terminal, else one line for each training loop."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import sys
import time
from typing import Any, Iterator, List, Mapping, Optional, TextIO

import orbit
import tensorflow as tf
from absl import logging
from orbit import controller as orbit_controller
from tqdm import tqdm
from tqdm.contrib import DummyTqdmFile

STYLES = ("auto", "bar", "plain")
DATA_SHARE = "data_wait"
"""Of the logs of a training loop: the share of its time in which it waited for batches, 0..1."""

_LINES_OF_AN_EVALUATION = 10


def resolve_style(style: str) -> str:
    """`bar` or `plain`, whichever of `STYLES` is asked for; `auto`: a bar on a terminal.

    Raises:
      ValueError: another style.
    """
    if style not in STYLES:
        raise ValueError(f"log (--log) must be one of {', '.join(STYLES)}, got {style!r}.")
    if style != "auto":
        return style
    is_terminal = all(s is not None and s.isatty() for s in (sys.stdout, sys.stderr))
    return "bar" if is_terminal else "plain"


@dataclasses.dataclass(frozen=True)
class Terminal:
    """Where progress is shown.

    Attributes:
      bars: the stream of the bars; None: lines, to stdout.
    """

    bars: Optional[TextIO] = None

    def say(self, text: str) -> None:
        """Shows a line, above the bars where there are some."""
        if self.bars is not None:
            tqdm.write(text, file=self.bars)
        else:
            print(text, flush=True)

    def bar(self, **options: Any) -> Optional[tqdm]:
        """A bar, or None where there are lines."""
        if self.bars is None:
            return None
        return tqdm(file=self.bars, dynamic_ncols=True, **options)


class Progress(orbit.Action):
    """Loss with its parts, images per second, time left, and how far an evaluation is.

    Args:
      terminal: where.
      global_step: the trainer's.
      train_steps: of the whole run; 0 where nothing is trained.
      batch_size: images of a global batch of training.
      num_workers: processes, of which this is one, that share the images of an evaluation.
    """

    def __init__(
        self,
        *,
        terminal: Terminal,
        global_step: tf.Variable,
        train_steps: int = 0,
        batch_size: int = 0,
        num_workers: int = 1,
    ):
        self._terminal = terminal
        self._global_step = global_step
        self._train_steps = train_steps
        self._batch_size = batch_size
        self._num_workers = num_workers
        self._bar: Optional[tqdm] = None
        self._evaluation: Optional[_Evaluation] = None
        self._start_step = self._step = 0
        self._start_time = self._time = time.monotonic()

    def start(self) -> None:
        """Shows where the run starts or goes on; its first loop compiles the training step."""
        self._start_step = self._step = int(self._global_step.numpy())
        self._start_time = self._time = time.monotonic()
        if self._step:
            self.say(f"continuing from step {self._step} of {self._train_steps}")
        self._bar = self._terminal.bar(
            total=self._train_steps, initial=self._step, unit="step", desc="train"
        )

    def say(self, text: str) -> None:
        """Shows a line."""
        self._terminal.say(text)

    def __call__(self, output: Mapping[str, Any]) -> None:
        """Shows the logs of a training loop; called after each."""
        step, now = int(self._global_step.numpy()), time.monotonic()
        numbers = _describe_losses(output)
        images = (step - self._step) * self._batch_size / max(now - self._time, 1e-9)
        numbers.append(f"{images:.1f} images/s")
        if DATA_SHARE in output:
            numbers.append(f"data {float(output[DATA_SHARE]):.0%}")
        if self._bar is not None:
            self._bar.set_postfix_str(", ".join(numbers), refresh=False)
            self._bar.update(step - self._step)
        else:
            seconds = (now - self._start_time) / max(step - self._start_step, 1)
            left = datetime.timedelta(seconds=round(seconds * (self._train_steps - step)))
            self.say(f"step {step}/{self._train_steps}: {', '.join(numbers)}, {left} left")
        self._step, self._time = step, now

    def start_evaluation(self, num_images: Optional[int] = None) -> None:
        """Shows that an evaluation begins.

        Args:
          num_images: how many it has, over all workers; None: not known.
        """
        own = None if num_images is None else -(-num_images // self._num_workers)
        self._evaluation = _Evaluation(own, self._terminal)

    def count_image(self, *image: Any) -> None:
        """To be called for every image of an evaluation, from one thread."""
        del image
        if self._evaluation is not None:
            self._evaluation.count()

    def end_evaluation(self, metrics: Mapping[str, Any]) -> None:
        """Shows what was measured; the speed of training leaves the time of it out.

        Args:
          metrics: the content of `metrics.json`.
        """
        if self._evaluation is None:
            return
        self._evaluation.close()
        seconds = time.monotonic() - self._evaluation.start_time
        names = [name for name in ("PQ", "mIoU", "AP") if metrics.get(name) is not None]
        values = ", ".join(f"{name} {metrics[name]:.2f}" for name in names) or "nothing to measure"
        self.say(f"evaluation at step {metrics.get('step')}: {values}, {seconds:.0f} s")
        self._time += seconds
        self._evaluation = None

    def close(self) -> None:
        """Ends the bars' lines."""
        if self._evaluation is not None:
            self._evaluation.close()
        if self._bar is not None:
            self._bar.close()


class _Evaluation:
    """The images of one evaluation: a bar, or a line for every tenth of them."""

    def __init__(self, num_images: Optional[int], terminal: Terminal):
        self.start_time = time.monotonic()
        self._total = num_images
        self._terminal = terminal
        self._count = 0
        self._bar = terminal.bar(total=num_images, unit="image", desc="evaluate", leave=False)

    def count(self) -> None:
        self._count += 1
        if self._bar is not None:
            self._bar.update()
        elif self._total and self._is_due():
            self._terminal.say(f"evaluating: {self._count}/{self._total} images")

    def _is_due(self) -> bool:
        """Whether this image fills another tenth, in an evaluation that takes some time."""
        tenths = [
            n * _LINES_OF_AN_EVALUATION // self._total for n in (self._count - 1, self._count)
        ]
        return tenths[0] != tenths[1] and time.monotonic() - self.start_time > 60

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


def _describe_losses(output: Mapping[str, Any]) -> List[str]:
    """`["loss 1.2 (center 0.2, offset 1)"]` of the logs of a training loop."""
    parts = [
        f"{name.partition('/')[2]} {float(value):.4g}"
        for name, value in output.items()
        if name.startswith("loss/")
    ]
    total = f"loss {float(output['training_loss']):.4f}"
    return [f"{total} ({', '.join(parts)})" if len(parts) > 1 else total]


@contextlib.contextmanager
def clean_terminal(style: str) -> Iterator[Terminal]:
    """A terminal where nothing runs into the progress while the block runs.

    Orbit's reports are logged at the level of information only (`--verbosity=0` shows them). What
    Python writes to stderr, logs and warnings, appears above the bars.

    Args:
      style: one of `STYLES`.

    Raises:
      ValueError: another style.
    """
    is_bar, stderr = resolve_style(style) == "bar", sys.stderr
    with contextlib.ExitStack() as stack:
        stack.enter_context(_orbit_only_logs())
        if is_bar:
            above = DummyTqdmFile(stderr)
            handler = logging.get_absl_handler().python_handler
            if handler.stream is stderr:
                handler.setStream(above)
                stack.callback(handler.setStream, stderr)
            stack.enter_context(contextlib.redirect_stderr(above))
        yield Terminal(stderr if is_bar else None)


@contextlib.contextmanager
def _orbit_only_logs() -> Iterator[None]:
    """Orbit prints each of its reports beside logging it."""
    printing = orbit_controller._log
    orbit_controller._log = logging.info
    try:
        yield
    finally:
        orbit_controller._log = printing
