"""A server of a SavedModel with TensorFlow Serving's two APIs, and one that fails on purpose.

It speaks gRPC (PredictionService.Predict, with the messages of tensorflow-serving-api) and REST
(`:predict`, row and column format), and batches requests by `tf.nondifferentiable_batch_function`,
whose rules are those of TensorFlow Serving: it uses the same scheduler.
"""

import base64
import collections
import contextlib
import http.server
import json
import re
import socket
import subprocess
import threading
import time
import urllib.request
from concurrent import futures

import grpc
import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2

MODEL, VERSION = "panoptic", 1
MAX_BATCH_SIZE = 8

_HTTP_STATUS = {
    "INVALID_ARGUMENT": 400,
    "UNAUTHENTICATED": 401,
    "NOT_FOUND": 404,
    "RESOURCE_EXHAUSTED": 429,
    "INTERNAL": 500,
    "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
}
_PATH = re.compile(r"/v1/models/([^/:]+)(?:/versions/(\d+))?:predict")
DROP = "drop"
"""A fault: the connection is closed without an answer (REST)."""


class Refusal(Exception):
    """A call that is answered with an error."""

    def __init__(self, code, text):
        super().__init__(text)
        self.code = code


class Server:
    """Serves a SavedModel, or what `answer` returns.

    Attributes:
      faults: for the next calls, one each: a code (`UNAVAILABLE`), an event to wait for before the
        answer, bytes to answer instead, or `DROP`.
      calls: how many there were.
      batch_sizes: of what the model ran on, padding counted.
    """

    def __init__(self, folder=None, *, answer=None, port=0):
        self.faults = collections.deque()
        self.calls = 0
        self.batch_sizes = []
        self._answer = answer or self._load(folder)
        self._lock = threading.Lock()
        self._grpc = grpc.server(futures.ThreadPoolExecutor(16), options=[("grpc.so_reuseport", 0)])
        handler = grpc.unary_unary_rpc_method_handler(
            self._predict,
            request_deserializer=predict_pb2.PredictRequest.FromString,
            response_serializer=lambda m: m if isinstance(m, bytes) else m.SerializeToString(),
        )
        self._grpc.add_generic_rpc_handlers(
            [
                grpc.method_handlers_generic_handler(
                    "tensorflow.serving.PredictionService", {"Predict": handler}
                )
            ]
        )
        self.grpc = f"grpc://localhost:{self._grpc.add_insecure_port(f'localhost:{port}')}"
        self._grpc.start()
        self._rest = http.server.ThreadingHTTPServer(("localhost", 0), _handler_of(self))
        self._rest.daemon_threads = True
        threading.Thread(target=self._rest.serve_forever, daemon=True).start()
        self.rest = f"http://localhost:{self._rest.server_address[1]}"

    def close(self):
        self._grpc.stop(None).wait()
        self._rest.shutdown()
        self._rest.server_close()

    def _load(self, folder):
        loaded = tf.saved_model.load(folder)
        batched = {}
        for name in ("image_bytes", "panoptic_png", "serving_default"):
            batched[name] = self._batched(loaded.signatures[name])

        def answer(signature, images):
            if signature not in batched:
                raise Refusal(
                    "INVALID_ARGUMENT", f'Serving signature name: "{signature}" not found'
                )
            return batched[signature](tf.constant(images))

        answer.keep = loaded
        return answer

    def _batched(self, signature):
        keys = sorted(signature.structured_outputs)

        def record(size):
            self.batch_sizes.append(int(size))
            return size

        @tf.nondifferentiable_batch_function(
            1, MAX_BATCH_SIZE, 20_000, allowed_batch_sizes=[1, 2, 4, MAX_BATCH_SIZE]
        )
        def run(image_bytes):
            size = tf.numpy_function(record, [tf.size(image_bytes)], tf.int32)
            with tf.control_dependencies([size]):
                outputs = signature(image_bytes=tf.identity(image_bytes))
            return [outputs[key] for key in keys]

        # One graph, so that all calls share one queue.
        traced = tf.function(
            run, autograph=False, input_signature=[tf.TensorSpec([None], tf.string)]
        ).get_concrete_function()
        return lambda images: dict(zip(keys, (value.numpy() for value in traced(images))))

    def respond(self, model, version, signature, images):
        """The outputs, or bytes to answer as they are."""
        with self._lock:
            self.calls += 1
            fault = self.faults.popleft() if self.faults else None
        if isinstance(fault, bytes) or fault == DROP:
            return fault
        if isinstance(fault, threading.Event):
            fault.wait()
        elif fault:
            raise Refusal(fault, "on purpose")
        if model != MODEL or version not in (None, VERSION):
            raise Refusal("NOT_FOUND", f"Servable not found for request: {model} {version}")
        return self._answer(signature, images)

    def _predict(self, request, context):
        spec = request.model_spec
        version = spec.version.value if spec.HasField("version") else None
        images = list(tf.make_ndarray(request.inputs["image_bytes"]))
        try:
            outputs = self.respond(spec.name, version, spec.signature_name, images)
        except Refusal as error:
            context.abort(grpc.StatusCode[error.code], str(error))
        if isinstance(outputs, bytes):
            return outputs
        response = predict_pb2.PredictResponse(model_spec=spec)
        for key, value in outputs.items():
            response.outputs[key].CopyFrom(tf.make_tensor_proto(value))
        return response


def _handler_of(server):
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def do_POST(self):
            length = int(self.headers["Content-Length"])
            body = json.loads(self.rfile.read(length))
            model, version = _PATH.fullmatch(self.path).groups()
            images, is_row = _images(body)
            try:
                outputs = server.respond(
                    model, version and int(version), body["signature_name"], images
                )
            except Refusal as error:
                content = json.dumps({"error": str(error)}).encode()
                return self._send(_HTTP_STATUS[error.code], content)
            if outputs == DROP:
                self.connection.shutdown(socket.SHUT_RDWR)
                self.close_connection = True
                return None
            if not isinstance(outputs, bytes):
                outputs = json.dumps(_as_json(outputs, is_row)).encode()
            return self._send(200, outputs)

        def _send(self, status, content):
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    return Handler


def _images(body):
    is_row = "instances" in body
    values = body["instances"] if is_row else body["inputs"]["image_bytes"]
    values = [value.get("image_bytes", value) for value in values]
    return [base64.b64decode(value["b64"]) for value in values], is_row


def _as_json(outputs, is_row):
    columns = {key: _column(key, value) for key, value in outputs.items()}
    if not is_row:
        return {"outputs": columns}
    return {"predictions": [dict(zip(columns, row)) for row in zip(*columns.values())]}


def _column(key, value):
    if key.endswith("_bytes"):
        return [{"b64": base64.b64encode(item).decode()} for item in value]
    return np.asarray(value).tolist()


@contextlib.contextmanager
def model_server(binary, folder, work_dir):
    """Runs the program tensorflow_model_server over a folder of versions."""
    ports = [_free_port(), _free_port()]
    batching = work_dir / "batching.config"
    batching.write_text(
        "max_batch_size { value: 8 } batch_timeout_micros { value: 20000 } "
        "num_batch_threads { value: 1 } "
        "allowed_batch_sizes: [1, 2, 4, 8]"
    )
    command = [binary, f"--port={ports[0]}", f"--rest_api_port={ports[1]}"]
    command += [f"--model_name={MODEL}", f"--model_base_path={folder}", "--enable_batching=true"]
    command += [f"--batching_parameters_file={batching}"]
    log = open(work_dir / "log", "wb")
    process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        _wait_until_ready(f"http://localhost:{ports[1]}/v1/models/{MODEL}", process, log.name)
        yield f"grpc://localhost:{ports[0]}", f"http://localhost:{ports[1]}"
    finally:
        process.terminate()
        process.wait()
        log.close()


def _wait_until_ready(url, process, log):
    for _ in range(600):
        with contextlib.suppress(OSError):
            with urllib.request.urlopen(url) as response:
                if b"AVAILABLE" in response.read():
                    return
        if process.poll() is not None:
            break
        time.sleep(0.1)
    raise RuntimeError(f"tensorflow_model_server does not serve: see {log}")


def _free_port():
    with socket.socket() as sock:
        sock.bind(("localhost", 0))
        return sock.getsockname()[1]
