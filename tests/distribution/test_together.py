"""Several devices or processes train and evaluate as one device does, and end together."""

import json
import os
import signal
import time

import pytest
from jobs import Job, check_close, last_step, loss_curve, override

pytestmark = pytest.mark.slow

TRAIN_STEPS = 20
INTERVAL = 5
ENDLESS = 10**6
LOST = 138
TIMEOUT = 10  # seconds without a sign of life


@pytest.fixture(scope="module")
def one_device(records, tmp_path_factory):
    """A finished training on one device."""
    model_dir = tmp_path_factory.mktemp("one") / "model"
    overrides = override(records, train_steps=TRAIN_STEPS, interval=INTERVAL)
    with Job(model_dir, overrides, mode="train") as job:
        job.wait(expected=[0])
    return model_dir


@pytest.fixture(scope="module")
def two_workers(records, tmp_path_factory):
    """The same training by two processes, which TF_CONFIG describes."""
    model_dir = tmp_path_factory.mktemp("two") / "model"
    overrides = override(records, train_steps=TRAIN_STEPS, interval=INTERVAL)
    with Job(model_dir, overrides, num_workers=2, with_tf_config=True) as job:
        job.wait(expected=[0, 0])
    return model_dir


def check_same_curve(model_dir, reference_dir):
    curve, reference = loss_curve(model_dir), loss_curve(reference_dir)
    assert sorted(curve) == sorted(reference) == list(range(1, TRAIN_STEPS + 1))
    differences = {step: abs(curve[step] / reference[step] - 1) for step in reference}
    print(f"largest relative difference {max(differences.values()):.1e}")
    # Rounding that turns one ReLU on or off changes a gradient by up to 15 % from then on, on one
    # device too; what a strategy does wrong shows in the first steps.
    assert max(differences[step] for step in range(1, 6)) < 1e-5, differences
    assert max(differences.values()) < 1e-3, differences
    losses = list(reference.values())
    assert sum(losses[-5:]) < sum(losses[:5]), losses  # both times every image twice


def test_two_workers_follow_the_losses_of_one_device(one_device, two_workers):
    check_same_curve(two_workers, one_device)


def test_two_logical_cpus_follow_the_losses_of_one_device(records, one_device, tmp_path):
    flags = ["--distribution_strategy=mirrored", "--logical_cpus=2"]
    overrides = override(records, train_steps=TRAIN_STEPS, interval=INTERVAL)
    with Job(tmp_path / "model", overrides, *flags, mode="train") as job:
        job.wait(expected=[0])
    check_same_curve(tmp_path / "model", one_device)


def test_merged_metrics_are_those_of_one_device(records, two_workers):
    merged = json.loads((two_workers / "metrics.json").read_text())
    assert merged["step"] == TRAIN_STEPS
    assert (
        merged["mIoU"] > 0 and merged["predicted_segments"] > 0
    )  # After so few steps PQ may be 0.
    (two_workers / "metrics.json").unlink()
    overrides = override(records, train_steps=TRAIN_STEPS, interval=INTERVAL)
    with Job(two_workers, overrides, mode="eval") as job:
        job.wait(expected=[0])
    alone = json.loads((two_workers / "metrics.json").read_text())
    check_close(merged, alone)


def test_one_worker_writes_and_none_leaves_anything_behind(two_workers):
    found = sorted(os.listdir(two_workers))
    kept = {name for name in found if not name.startswith("ckpt-")}
    assert kept <= {
        *("checkpoint", "params.yaml", "metrics.json", "train", "validation", "ema_checkpoints")
    }
    assert last_step(two_workers) == TRAIN_STEPS
    assert len(list((two_workers / "train").iterdir())) == 1
    assert not [name for name in found if "temp" in name]


def test_workers_stop_early_together(records, tmp_path):
    model_dir = tmp_path / "model"
    overrides = override(records, train_steps=TRAIN_STEPS, interval=TRAIN_STEPS)
    overrides["trainer"].update(
        validation_interval=2,
        best_checkpoint_export_subdir="best",
        early_stopping={"patience": 1, "min_delta": 100.0},  # The second is never better.
    )
    with Job(model_dir, overrides, num_workers=2) as job:
        job.wait(expected=[0, 0])
        assert "stopped early at step 4: PQ is best at step 2" in job.text(0)
        assert "step 4/" in job.text(0)
        assert "stopped early" not in job.text(1) and "step 4/" not in job.text(1)
    assert last_step(model_dir) == 4 and last_step(model_dir / "best") in (2, 4)
    assert (model_dir / "best" / "metrics.json").exists()


def test_loss_of_a_worker_ends_the_others_and_the_same_command_goes_on(records, two_workers):
    def start():
        overrides = override(records, train_steps=ENDLESS, interval=INTERVAL)
        flags = [f"--worker_timeout_seconds={TIMEOUT}"]
        return Job(two_workers, overrides, *flags, mode="train", num_workers=2)

    def kill(job, lost, codes):
        before = last_step(two_workers)
        job.wait_for(lambda: last_step(two_workers) >= before + INTERVAL)
        job.processes[lost].kill()
        start_of_end = time.monotonic()
        job.wait(expected=codes, patience=10 * TIMEOUT)
        print(f"ended {time.monotonic() - start_of_end:.1f} s after worker {lost} was killed")
        text = job.text(1 - lost)
        assert f"worker {lost} ({job.hosts[lost]}) of the 2 workers is gone" in text, text[-3000:]
        assert f"continues from {two_workers}/ckpt-" in text
        assert "Traceback" not in text.rsplit("is gone", 1)[1]
        return last_step(two_workers)

    with start() as job:
        stopped_at = kill(job, lost=1, codes=[LOST, -signal.SIGKILL])
        assert job.first_step() == TRAIN_STEPS + 1
    with start() as job:
        again_at = kill(job, lost=0, codes=[-signal.SIGKILL, LOST])
        assert job.first_step() == stopped_at + 1
    with start() as job:
        job.wait_for(lambda: " loss " in job.text())
        job.processes[1].send_signal(signal.SIGTERM)
        job.wait(expected=[143, 143])
        assert job.first_step() == again_at + 1
        assert last_step(two_workers) > again_at


def test_worker_that_never_comes_ends_the_other(records, tmp_path):
    overrides = override(records, train_steps=TRAIN_STEPS, interval=INTERVAL)
    flags = ["--worker_start_seconds=3"]
    with Job(tmp_path / "model", overrides, *flags, num_workers=2, started=[0]) as job:
        job.wait(expected=[LOST])
        assert "not all of the 2 workers came within 3 s" in job.text()
        assert all(host in job.text() for host in job.hosts)
    assert not (tmp_path / "model").exists()
