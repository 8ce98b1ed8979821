"""What a GPU would leave to the CPU in each system's training step and inference network.

A ratchet: nothing may come to `ALLOWED` without a reason, and what is mended is deleted from it.
"""

import functools

import pytest
import traced
from kernel_audit import SMALL, audit, has_gpu_kernels
from small_systems import ROWS, row_task

# Masks have 64 KB, maps at stride 4 have 4 KB a channel; tables of instances have less than SMALL.
_SIZE = {"model": {"train_size": [128, 128], "input_size": [128, 128]}}
_BATCH = 2

# {system: {(operator, file): why it is there}}; see `kernel_audit`.
ALLOWED = {
    "panoptic_deeplab": {},
    "panoptic_fpn": {},
    "panoptic_fcn": {},
}


@functools.cache
def find(row_index: int):
    """All findings of a system."""
    row = ROWS[row_index]
    step, _ = traced.training_step(row_task(row, _SIZE), _BATCH)
    network = traced.inference(row_task(row, _SIZE), _BATCH)
    audits = [audit(function) for function in (step, network)]
    return [f for found in audits for f in (*found.without_kernel, *found.copies)]


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not has_gpu_kernels(), reason="TensorFlow is built without CUDA"),
    pytest.mark.parametrize("row_index", range(len(ROWS)), ids=[row.system for row in ROWS]),
]


def test_nothing_new_runs_on_the_host(row_index):
    allowed = ALLOWED[ROWS[row_index].system]
    new = {str(f) for f in find(row_index) if (f.operator, f.file) not in allowed}
    lines = "\n".join(sorted(new))
    assert not new, f"no GPU kernel, or a copy of more than {SMALL} bytes:\n{lines}"


def test_what_is_mended_is_not_allowed_any_more(row_index):
    found = {(f.operator, f.file) for f in find(row_index)}
    mended = sorted(set(ALLOWED[ROWS[row_index].system]) - found)
    assert not mended, f"delete these from ALLOWED: {mended}"
