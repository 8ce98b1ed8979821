"""Which failed calls are tried again, and after how long."""

from __future__ import annotations

import dataclasses
import random
import time
from typing import Callable, Optional, TypeVar

Result = TypeVar("Result")

_MAX_SECONDS = 86_400


class CallError(Exception):
    """One call failed.

    Attributes:
      is_retriable: the same call may succeed later.
      is_of_server: no other call would succeed either: a model, a version or a right is missing.
      retry_after: seconds the server asks to wait, or None.
    """

    def __init__(
        self,
        message: str,
        *,
        is_retriable: bool = False,
        is_of_server: bool = False,
        retry_after: Optional[float] = None,
    ):
        super().__init__(message)
        self.is_retriable = is_retriable
        self.is_of_server = is_of_server
        self.retry_after = retry_after


@dataclasses.dataclass(frozen=True)
class RetryPolicy:
    """Exponential back-off with jitter: before attempt i + 1 a call waits for a random half to
    whole of min(max_seconds, first_seconds * 2^(i - 1)), or for what the server asks, if longer.

    Attributes:
      max_attempts: the first one counts.
      first_seconds, max_seconds: see above; `max_seconds` bounds what a server may ask, too.
    """

    max_attempts: int = 6
    first_seconds: float = 0.2
    max_seconds: float = 10.0

    def __post_init__(self):
        if self.max_attempts < 1:
            raise ValueError(f"max_attempts must be at least 1, got {self.max_attempts}.")
        if not 0 <= self.first_seconds <= self.max_seconds <= _MAX_SECONDS:
            raise ValueError(
                f"0 <= first_seconds <= max_seconds <= {_MAX_SECONDS:,} must hold, got "
                f"{self.first_seconds} and {self.max_seconds}."
            )

    def delay(self, attempt: int, retry_after: Optional[float], draw: float) -> float:
        """Seconds to wait after a failed attempt.

        Args:
          attempt: its number, from 1.
          retry_after: what the server asks for.
          draw: 0..1, random.
        """
        longest = min(self.max_seconds, self.first_seconds * 2.0 ** min(attempt - 1, 60))
        asked = min(self.max_seconds, retry_after or 0.0)
        return max(asked, longest * (0.5 + 0.5 * draw))


def call(
    function: Callable[[], Result],
    policy: RetryPolicy,
    *,
    sleep: Callable[[float], Optional[bool]] = time.sleep,
    draw: Callable[[], float] = random.random,
) -> Result:
    """Calls a function until it succeeds.

    Args:
      function: raises a `CallError` where it fails.
      policy: how often, and how long between.
      sleep: takes seconds; returns True if it is no use to go on.
      draw: a random number of 0..1.

    Raises:
      CallError: the last attempt failed, or one failed for good; the message says how many.
    """
    for attempt in range(1, policy.max_attempts + 1):
        try:
            return function()
        except CallError as error:
            if not error.is_retriable:
                raise
            is_last = attempt == policy.max_attempts
            if is_last or sleep(policy.delay(attempt, error.retry_after, draw())):
                times = f"{attempt} attempt{'s' * (attempt > 1)}"
                raise CallError(f"{error} ({times})", is_retriable=True) from error
    raise AssertionError("unreachable")
