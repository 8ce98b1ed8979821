"""`panoptic-tf benchmark` in processes of their own: its table, and the JSON beside it."""

import json
import subprocess
import sys

from serving.conftest import arguments, build_network, dataset_info  # noqa: F401  (a fixture)

from panoptic_tf.serving.tflite import export_tflite


def test_table_and_json(files, tmp_path, dataset_info):  # noqa: F811
    path, output_json = tmp_path / "model.tflite", tmp_path / "out" / "rows.json"
    export_tflite(build_network(), tflite_path=str(path), **arguments(dataset_info))
    flags = [
        f"--tflite_path={path}",
        f"--input={files}/shapes/images",
        "--batch_sizes=2",
        "--threads=1",
        "--num_requests=3",
        f"--output_json={output_json}",
    ]
    command = [sys.executable, "-m", "panoptic_tf.experiments.cli", "benchmark", *flags]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and "Warning" not in done.stderr, done.stderr
    assert [path.name for path in output_json.parent.iterdir()] == ["rows.json"]
    report = json.loads(output_json.read_text())
    (row,) = report["rows"]
    assert (row["through"], row["threads"], row["requests"]) == ("Predictor", 1, 3)
    assert row["peak_memory_bytes"] > 100e6 and report["size_bytes"] == path.stat().st_size
    lines = done.stdout.splitlines()
    assert lines[0].startswith(report["machine"]["cpu"])
    assert f"model.tflite, {report['size_bytes'] / 1e6:.1f} MB; images: 2 given" in done.stdout
    cells = ["Predictor", "2", "1", "1", f"{row['images_per_second']:,.2f}"]
    assert lines[-1].split()[:5] == cells
