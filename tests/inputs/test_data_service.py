"""Batches that processes of their own make, with the instances of the records."""

import json
import socket
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from panoptic_tf.datasets import rle
from panoptic_tf.datasets.coco_format import Instance
from panoptic_tf.inputs import pipeline
from panoptic_tf.inputs.data_service import DataService
from panoptic_tf.inputs.failures import explain_failure

NUM_IMAGES, BATCH, BATCHES = 12, 3, 16
SECONDS = 300  # for a client; TensorFlow waits for a service without end

DISPATCHER = """
import tensorflow as tf
service = tf.data.experimental.service
service.DispatchServer(service.DispatcherConfig(port={port})).join()
"""
WORKER = """
import tensorflow as tf
service = tf.data.experimental.service
service.WorkerServer(service.WorkerConfig(
    dispatcher_address="localhost:{port}", worker_address="localhost:%port%", port=0)).join()
"""


def targets(sample):
    areas = tf.reduce_sum(tf.cast(sample.instances.masks, tf.int32), axis=[1, 2])
    number = tf.strings.to_number(sample.image_id, tf.int32)
    return {}, {"number": number, "areas": areas, "seed": sample.seed}


def build(input_path, **options):
    return pipeline.build_training_dataset(
        input_path=input_path,
        thing_ids=(1, 2),
        network_size=(24, 32),
        normalization=pipeline.Normalization(mean=(0, 0, 0), std=(1, 1, 1)),
        augmentation=pipeline.Augmentation(flip_horizontally=True),
        target_generator=targets,
        batch_size=BATCH,
        with_instances=True,
        **options,
    )


def read(dataset, batches):
    """Labels of all images."""
    labels = [labels for _, labels in dataset.take(batches).as_numpy_iterator()]
    return {key: np.concatenate([one[key] for one in labels]).tolist() for key in labels[0]}


def read_from_service(address, good, bad):
    """What a client prints: labels, and what is said of a bad record."""
    found = read(build(good, service=DataService(address)), BATCHES)
    try:
        read(build(bad, service=DataService(address)), BATCHES)
    except tf.errors.OpError as error:
        found["error"] = explain_failure(error, input_path=bad, with_instances=True)
    print(json.dumps(found))


@pytest.fixture
def service():
    """Address of a dispatcher with two workers, three processes."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    processes = []
    try:
        for code in (DISPATCHER, WORKER, WORKER):
            command = [sys.executable, "-c", code.format(port=port)]
            processes.append(subprocess.Popen(command, stderr=subprocess.DEVNULL))
        yield f"grpc://localhost:{port}"
    finally:
        for process in processes:
            process.kill()
        for process in processes:
            process.wait()


def encode(encode_record, number, size, counts=None):
    """Two instances that overlap; or one of the run lengths."""
    masks = np.zeros((2, *size), bool)
    masks[0, 3 : 4 + number, 2:9] = masks[1, :7, 5:] = True
    texts = [rle.encode_rle(mask) for mask in masks] if counts is None else [counts] * 2
    own = [Instance(text, category=1 + i, is_crowd=False) for i, text in enumerate(texts)]
    image = np.full((*size, 3), number, np.uint8)
    return encode_record(number, image, np.ones(size, np.int32), [10], instances=own)


@pytest.mark.slow
def test_two_workers(service, tmp_path, encode_record, write_records):
    good, bad = str(tmp_path / "good"), str(tmp_path / "bad")
    records = [encode(encode_record, n, (24, 32)) for n in range(NUM_IMAGES)]
    write_records(good, records)
    write_records(bad, [*records[:2], encode(encode_record, 2, (24, 32), counts=b"11")])
    client = subprocess.run(
        [sys.executable, __file__, service, good, bad],
        stdout=subprocess.PIPE,
        timeout=SECONDS,
        check=True,
    )
    found = json.loads(client.stdout.splitlines()[-1])
    alone = read(build(good, seed=1), NUM_IMAGES // BATCH)  # without a seed passes may mix
    assert sorted(alone["number"]) == list(range(NUM_IMAGES))
    expected = dict(zip(alone["number"], alone["areas"]))
    assert [expected[number] for number in found["number"]] == found["areas"]
    assert len(set(found["number"])) > NUM_IMAGES // 2
    # No two of the workers' draws are the same.
    assert len({tuple(seed) for seed in found["seed"]}) == BATCHES * BATCH
    assert "bad: record 2, image_id 2, '2.png'" in found["error"]
    assert "run lengths must fill the image" in found["error"]


def test_nothing_of_training_runs_in_python(twelve_records):
    graph = tf.raw_ops.DatasetToGraphV2(
        input_dataset=tf.data.experimental.to_variant(build(twelve_records))
    )
    functions = tf.compat.v1.GraphDef.FromString(graph.numpy()).library.function
    operators = {node.op for function in functions for node in function.node_def}
    assert "DecodePng" in operators or "DecodeImage" in operators
    assert not [name for name in operators if "PyFunc" in name]


if __name__ == "__main__":
    read_from_service(*sys.argv[1:])
