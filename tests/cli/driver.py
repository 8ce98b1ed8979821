"""Runs commands one after the other, each in a fork of a process that has imported TensorFlow once.

Flags are global and a start of TensorFlow takes seconds. Reads a list of lists of arguments as JSON
and writes [exit code, stdout, stderr] of each.
"""

import json
import os
import sys
import tempfile

import panoptic_tf.evaluation.ceiling
import panoptic_tf.evaluation.results  # noqa: F401
import panoptic_tf.serving.predictor  # noqa: F401
from panoptic_tf.experiments import cli

_SECONDS = 300


def run(arguments):
    """Exit code, stdout and stderr of `panoptic-tf <arguments>`."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        child = os.fork()
        if child == 0:
            _run_here(arguments, out, err)
        status = os.waitpid(child, 0)[1]
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode())
    return [os.waitstatus_to_exitcode(status), *texts]


def _run_here(arguments, out, err):
    import signal
    import traceback

    signal.alarm(_SECONDS)  # A command that hangs ends with -14.
    os.dup2(out.fileno(), 1)
    os.dup2(err.fileno(), 2)
    code = 0
    try:
        cli.main(arguments)
    except SystemExit as exit_error:
        code = exit_error.code or 0
        if not isinstance(code, int):
            print(code, file=sys.stderr)
            code = 1
    except BaseException:
        traceback.print_exc()
        code = 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    with open(sys.argv[1]) as file:
        inputs = json.load(file)
    with open(sys.argv[2], "w") as file:
        json.dump([run(arguments) for arguments in inputs], file)
