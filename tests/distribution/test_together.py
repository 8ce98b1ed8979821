"""Several devices or processes train and evaluate as one device does, and end together."""

import json
import os
import signal
import time

import pytest
from jobs import Job, check_close, last_step, loss_curve, override

pytestmark = pytest.mark.slow

TRAIN_STEPS = 30
STOP = 20  # The second evaluation, which is never better.
INTERVAL = 5
ENDLESS = 10**6
LOST = 138
TIMEOUT = 10  # seconds without a sign of life


@pytest.fixture(scope="module")
def one_device(records, tmp_path_factory):
    """A finished training on one device, which does not evaluate."""
    model_dir = tmp_path_factory.mktemp("one") / "model"
    overrides = override(records, train_steps=TRAIN_STEPS, interval=INTERVAL)
    with Job(model_dir, overrides, mode="train") as job:
        job.wait(expected=[0])
    return model_dir


@pytest.fixture(scope="module")
def two_workers(records, tmp_path_factory):
    """The same training by two processes, which TF_CONFIG describes; it stops early."""
    model_dir = tmp_path_factory.mktemp("two") / "model"
    overrides = override(records, train_steps=TRAIN_STEPS, interval=INTERVAL)
    overrides["trainer"].update(
        validation_interval=STOP // 2,
        best_checkpoint_export_subdir="best",
        early_stopping={"patience": 1, "min_delta": 100.0},
    )
    with Job(model_dir, overrides, num_workers=2, with_tf_config=True) as job:
        job.wait(expected=[0, 0])
        texts = [job.text(0), job.text(1)]
    return model_dir, texts


def check_same_curve(model_dir, reference_dir, *, last_step):
    curve, reference = loss_curve(model_dir), loss_curve(reference_dir)
    assert sorted(curve) == list(range(1, last_step + 1))
    assert sorted(reference) == list(range(1, TRAIN_STEPS + 1))
    differences = {step: abs(curve[step] / reference[step] - 1) for step in curve}
    print(f"largest relative difference {max(differences.values()):.1e}")
    # Rounding that turns one ReLU on or off changes a gradient by up to 15 % from then on, on one
    # device too; what a strategy does wrong shows in the first steps.
    assert max(differences[step] for step in range(1, 6)) < 1e-5, differences
    assert max(differences.values()) < 1e-3, differences
    losses = [reference[step] for step in range(1, STOP + 1)]
    assert sum(losses[-5:]) < sum(losses[:5]), losses  # both times every image twice


def test_two_workers_follow_the_losses_of_one_device(one_device, two_workers):
    model_dir, _ = two_workers
    check_same_curve(model_dir, one_device, last_step=STOP)


def test_two_logical_cpus_follow_the_losses_of_one_device(records, one_device, tmp_path):
    flags = ["--distribution_strategy=mirrored", "--logical_cpus=2"]
    overrides = override(records, train_steps=TRAIN_STEPS, interval=INTERVAL)
    with Job(tmp_path / "model", overrides, *flags, mode="train") as job:
        job.wait(expected=[0])
    check_same_curve(tmp_path / "model", one_device, last_step=TRAIN_STEPS)


def test_merged_metrics_are_those_of_one_device(records, two_workers):
    model_dir, _ = two_workers
    merged = json.loads((model_dir / "metrics.json").read_text())
    assert merged["step"] == STOP
    # After so few steps PQ may be 0.
    assert merged["mIoU"] > 0 and merged["predicted_segments"] > 0
    (model_dir / "metrics.json").unlink()
    overrides = override(records, train_steps=TRAIN_STEPS, interval=INTERVAL)
    with Job(model_dir, overrides, mode="eval") as job:
        job.wait(expected=[0])
    alone = json.loads((model_dir / "metrics.json").read_text())
    check_close(merged, alone)


def test_one_worker_writes_and_none_leaves_anything_behind(two_workers):
    model_dir, _ = two_workers
    found = sorted(os.listdir(model_dir))
    kept = {name for name in found if not name.startswith("ckpt-")}
    assert kept <= {
        *("checkpoint", "params.yaml", "metrics.json", "train", "validation"),
        *("best", "early_stopping.json", "ema_checkpoints"),
    }
    assert len(list((model_dir / "train").iterdir())) == 1
    assert not [name for name in found if "temp" in name]


def test_workers_stop_early_together(two_workers):
    model_dir, (first, second) = two_workers
    half = STOP // 2
    assert f"stopped early at step {STOP}: PQ is best at step {half}" in first
    assert f"step {STOP}/" in first
    assert "stopped early" not in second and f"step {STOP}/" not in second
    assert last_step(model_dir) == STOP and last_step(model_dir / "best") in (half, STOP)
    assert (model_dir / "best" / "metrics.json").exists()


def test_loss_of_a_worker_ends_the_others_and_the_same_command_goes_on(records, two_workers):
    model_dir, _ = two_workers

    def start():
        overrides = override(records, train_steps=ENDLESS, interval=INTERVAL)
        flags = [f"--worker_timeout_seconds={TIMEOUT}"]
        return Job(model_dir, overrides, *flags, mode="train", num_workers=2)

    def kill(job, lost, codes):
        before = last_step(model_dir)
        job.wait_for(lambda: last_step(model_dir) >= before + INTERVAL)
        job.processes[lost].kill()
        start_of_end = time.monotonic()
        job.wait(expected=codes, patience=10 * TIMEOUT)
        print(f"ended {time.monotonic() - start_of_end:.1f} s after worker {lost} was killed")
        text = job.text(1 - lost)
        assert f"worker {lost} ({job.hosts[lost]}) of the 2 workers is gone" in text, text[-3000:]
        assert f"continues from {model_dir}/ckpt-" in text
        assert "Traceback" not in text.rsplit("is gone", 1)[1]
        return last_step(model_dir)

    with start() as job:
        stopped_at = kill(job, lost=1, codes=[LOST, -signal.SIGKILL])
        assert job.first_step() == STOP + 1
    with start() as job:
        again_at = kill(job, lost=0, codes=[-signal.SIGKILL, LOST])
        assert job.first_step() == stopped_at + 1
    with start() as job:
        job.wait_for(lambda: " loss " in job.text())
        job.processes[1].send_signal(signal.SIGTERM)
        job.wait(expected=[143, 143])
        assert job.first_step() == again_at + 1
        assert last_step(model_dir) > again_at


def test_worker_that_never_comes_ends_the_other(records, tmp_path):
    overrides = override(records, train_steps=TRAIN_STEPS, interval=INTERVAL)
    flags = ["--worker_start_seconds=3"]
    with Job(tmp_path / "model", overrides, *flags, num_workers=2, started=[0]) as job:
        job.wait(expected=[LOST])
        assert "not all of the 2 workers came within 3 s" in job.text()
        assert all(host in job.text() for host in job.hosts)
    assert not (tmp_path / "model").exists()
