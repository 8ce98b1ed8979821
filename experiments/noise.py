"""Leaves out the lines that native code writes at every start and that say nothing of a fault.

Native code writes to file descriptor 2. From `filter_lines` on, that goes through a process of its
own, which passes on every line that is not known; what is written before a crash arrives too. What
Python writes goes to where it went.
"""

from __future__ import annotations

import os
import re
import signal
import sys

_KNOWN = re.compile(
    rb"Unable to register cu\w+ factory: Attempting to register factory for plugin cu\w+ when one "
    rb"has already been registered"
    rb"|computation placer already registered"
    rb"|SetPriority unimplemented for this stream"
    rb"|Compiled cluster using XLA!"
    rb"|All log messages before absl::InitializeLog\(\) is called are written to STDERR"
    rb"|NodeDef mentions attribute Truncate which is not in the op definition: Op<name=Identity;"
    # Information and warnings, which TF_CPP_MIN_LOG_LEVEL=2 leaves out elsewhere.
    rb"|^[IW]\d{4} \d\d:\d\d:\d+\.\d+ "
    rb"|oneDNN supports DT_INT32 only on platforms with AVX-512"
    # What the TFLite converter counts at the end; operators it cannot convert are an error anyway.
    rb"|^Summary on the non-converted ops:|^-{33}$| \* Accepted dialects: | \* Non-Converted Ops: "
    rb"|^ \* \d+ \w+ ops$|^- \w+\.\w+: +\d+ occurrences|^  \(\w+: \d+[^()]*\)$|^\s*$"
    # 303: there is no driver at all.
    rb"|failed call to cuInit: .*\(303\)"
)


def filter_lines() -> None:
    """Starts the filter; must come before TensorFlow is imported. Does nothing without `fork`."""
    if not hasattr(os, "fork") or sys.stderr is None:
        return
    sys.stderr.flush()
    reading, writing = os.pipe()
    if os.fork() == 0:
        os.close(writing)
        _pass_on(reading)
    os.close(reading)
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1, errors="backslashreplace")
    os.dup2(writing, 2)
    os.close(writing)


def _pass_on(reading: int) -> None:
    """Until nobody can write any more; ends the process."""
    try:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
            signal.signal(number, signal.SIG_IGN)
        os.closerange(0, 2)
        with os.fdopen(reading, "rb") as file:
            for line in file:
                if not _KNOWN.search(line):
                    os.write(2, line)
    finally:
        os._exit(0)
