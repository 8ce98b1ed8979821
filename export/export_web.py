"""Exports a .tflite file as a web page that runs it in the browser.

npm install @litertjs/core@2
panoptic-tf export-web --tflite_path=model_float32.tflite --output_dir=site \\
    --runtime_dir=node_modules/@litertjs
python -m http.server --directory site

prints the folder. The page takes a photograph, shows its segments and sends nothing anywhere.
"""

from __future__ import annotations

from absl import app, flags

from panoptic_tf.experiments import cli

_TFLITE_PATH = flags.DEFINE_string(
    "tflite_path", None, "File written by export-tflite.", required=True
)
_OUTPUT_DIR = flags.DEFINE_string(
    "output_dir", None, "Folder to write, for any server of static files.", required=True
)
_RUNTIME_DIR = flags.DEFINE_string(
    "runtime_dir",
    "node_modules/@litertjs",
    "Where `npm install @litertjs/core@2` has put the runtime; the page gets a copy.",
)


def main(argv) -> None:
    """Runs the binary."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {argv[1:]}")
    from panoptic_tf.serving import web

    print(web.export_web(_TFLITE_PATH.value, _OUTPUT_DIR.value, runtime_dir=_RUNTIME_DIR.value))


if __name__ == "__main__":
    cli.run_script(__file__, main)
