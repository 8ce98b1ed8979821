"""Known lines of native code are left out, everything else arrives, a crash's last words too."""

import itertools
import signal
import subprocess
import sys

import pytest

KNOWN = [
    "2026-01-01 00:00:00.1: E a/cuda_dnn.cc:9261] Unable to register cuDNN factory: Attempting to "
    "register factory for plugin cuDNN when one has already been registered",
    "E0000 00:00:1.1 1 cuda_blas.cc:1] Unable to register cuBLAS factory: Attempting to register "
    "factory for plugin cuBLAS when one has already been registered",
    "2026-01-01: E a/stream_executor.h:1] SetPriority unimplemented for this stream.",
    "I0000 00:00:1.1 1 device_compiler.h:186] Compiled cluster using XLA!  This line is logged at "
    "most once for the lifetime of the process.",
    "WARNING: All log messages before absl::InitializeLog() is called are written to STDERR",
    "E a/cuda_platform.cc:51] failed call to cuInit: INTERNAL: CUDA error: Failed call to cuInit: "
    "UNKNOWN ERROR (303)",
    "W0000 00:00:1795668533.717193    2882 tf_tfl_helpers.cc:364] Ignored output_format.",
    "Summary on the non-converted ops:",
    " * Non-Converted Ops: 219, Total Ops 638, % non-converted = 34.33 %",
    " * 219 ARITH ops",
    "- arith.constant:  219 occurrences  (f32: 126, i1: 3, i32: 90)",
    "  (f32: 21, i32: 15)",
    "E a/util.cc:131] oneDNN supports DT_INT32 only on platforms with AVX-512. Falling back to the "
    "default Eigen-based implementation if present.",
]
UNKNOWN = [
    "E a/cuda_dnn.cc:1] Could not create cudnn handle: CUDNN_STATUS_INTERNAL_ERROR",
    "E a/cuda_platform.cc:51] failed call to cuInit: CUDA_ERROR_NO_DEVICE: no device is detected",
    "F a/cpu_feature_guard.cc:1] The TensorFlow library was compiled to use AVX instructions",
]

SHOWN = [*UNKNOWN, *UNKNOWN]


def run(*ending):
    lines = [line for pair in itertools.zip_longest(KNOWN, SHOWN) for line in pair if line]
    code = [
        "import os, sys",
        "from panoptic_tf.experiments import noise",
        "noise.filter_lines()",
        f"os.write(2, {(chr(10).join(lines) + chr(10)).encode()!r})",
        *ending,
    ]
    return subprocess.run(
        [sys.executable, "-c", "\n".join(code)], capture_output=True, text=True, timeout=120
    )


@pytest.mark.parametrize(
    "ending, code",
    [("os.abort()", -signal.SIGABRT), ("os.kill(os.getpid(), 9)", -9), ("sys.exit(3)", 3)],
)
def test_only_what_is_known_is_left_out(ending, code):
    result = run(ending)
    assert result.returncode == code
    assert result.stderr.splitlines() == SHOWN
    assert not result.stdout


def test_python_writes_to_where_it_wrote():
    result = run("print('SetPriority unimplemented for this stream.', file=sys.stderr)")
    assert "SetPriority" in result.stderr


def test_children_are_filtered_too():
    code = f"import subprocess; subprocess.run(['sh', '-c', 'echo \"{KNOWN[2]}\" >&2; echo b >&2'])"
    result = run(code)
    assert result.stderr.splitlines() == [*SHOWN, "b"]
