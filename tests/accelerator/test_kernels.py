"""What a GPU would leave to the CPU in each system's training step and inference network.

At the size of the systems' COCO experiments, where tables of instances are large too.
"""

import pytest
import traced
from kernel_audit import SMALL, audit, has_gpu_kernels
from small_systems import ROWS, get_params, get_task

_BATCH = 2


def test_every_system_has_its_experiment():
    assert set(traced.COCO_EXPERIMENTS) == {row.system for row in ROWS}


@pytest.mark.slow
@pytest.mark.skipif(not has_gpu_kernels(), reason="TensorFlow is built without CUDA")
@pytest.mark.parametrize("system", sorted(traced.COCO_EXPERIMENTS))
def test_nothing_runs_on_the_host(system):
    params = get_params(traced.COCO_EXPERIMENTS[system])
    step, _ = traced.training_step(get_task(params), _BATCH)
    audits = [audit(function) for function in (step, traced.inference(get_task(params), _BATCH))]
    found = {str(f) for parts in audits for f in (*parts.without_kernel, *parts.copies)}
    lines = "\n".join(sorted(found))
    assert not found, f"no GPU kernel, or a copy of more than {SMALL} bytes:\n{lines}"
