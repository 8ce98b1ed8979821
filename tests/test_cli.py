"""The console command, in processes of its own: flags are global."""

import pathlib
import re
import subprocess
import sys

import pytest

from panoptic_tf.experiments import cli

# What the documentation promises.
COMMANDS = {
    "analyze": "experiments",
    "benchmark": "experiments",
    "convert": "experiments",
    "demo": "experiments",
    "doctor": "experiments",
    "evaluate": "experiments",
    "experiments": "experiments",
    "import-checkpoint": "experiments",
    "init": "experiments",
    "inspect": "experiments",
    "predict": "experiments",
    "report": "experiments",
    "request": "experiments",
    "score": "experiments",
    "shapes": "experiments",
    "train": "experiments",
    "evaluate-tflite": "export",
    "export-onnx": "export",
    "export-saved-model": "export",
    "export-tflite": "export",
    "export-web": "export",
}


def run(*arguments, program=("-m", "panoptic_tf.experiments.cli")):
    return subprocess.run(
        [sys.executable, *program, *arguments], capture_output=True, text=True, timeout=300
    )


@pytest.mark.parametrize("name", COMMANDS)
def test_command_is_a_module_with_main_and_a_summary(name):
    command = cli.find_commands()[name]
    module = {"inspect": "inspect_"}.get(name, name.replace("-", "_"))
    assert command.module == f"panoptic_tf.{COMMANDS[name]}.{module}"
    assert command.summary.endswith(".")


def test_every_command_is_promised():
    assert set(cli.find_commands()) == set(COMMANDS)


def test_help_lists_the_commands_without_tensorflow():
    code = (
        "import sys; from panoptic_tf.experiments import cli; cli.main(['--help']); "
        "assert 'tensorflow' not in sys.modules and 'absl' not in sys.modules"
    )
    result = run(program=("-c", code))
    assert result.returncode == 0, result.stderr
    listed = [line.split()[0] for line in result.stdout.splitlines() if line.startswith("  ")]
    assert sorted(listed) == sorted(COMMANDS)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["trian"], "no command 'trian'. Did you mean train?"),
        (["export_tflite"], "Did you mean export-tflite"),
        (["qqqq"], "no command 'qqqq'. `panoptic-tf --help` lists all."),
        (["help", "trian"], "Did you mean train?"),
        ([], "usage: panoptic-tf <command>"),
    ],
)
def test_wrong_usage_exits_with_2_and_says_what_is_meant(arguments, message, capsys):
    with pytest.raises(SystemExit) as exit_info:
        cli.main(arguments)
    output = capsys.readouterr()
    assert exit_info.value.code == 2
    assert message in output.err
    assert not output.out


def test_version(capsys):
    import panoptic_tf

    cli.main(["--version"])
    assert capsys.readouterr().out.strip() == panoptic_tf.__version__


def test_command_runs_with_its_flags(tmp_path):
    result = run("shapes", f"--output_dir={tmp_path}", "--num_images=2", "--num_processes=1")
    assert result.returncode == 0, result.stderr
    panoptic_json = tmp_path / "val" / "panoptic.json"
    assert panoptic_json.exists()
    assert result.stdout.splitlines()[-1] == str(panoptic_json)


def test_unknown_flag_is_an_error():
    result = run("shapes", "--num_image=2")
    assert result.returncode == 1
    assert "there is no flag --num_image. Did you mean --num_images?" in result.stderr
    assert "`panoptic-tf shapes --help` shows the flags." in result.stderr


def test_file_of_a_command_runs_as_the_command():
    path = pathlib.Path(cli.__file__).with_name("shapes.py")
    for arguments, message in ((["--number=2"], "there is no flag --number"), ([], "missing:")):
        result = run(*arguments, program=(str(path),))
        assert result.returncode == 1
        assert result.stderr.startswith("panoptic-tf shapes: ") and message in result.stderr


def test_traceback_waits_for_the_flag(tmp_path):
    (tmp_path / "file").touch()
    for flags, lines in (([], 1), (["--verbosity=0"], 5)):
        result = run("shapes", f"--output_dir={tmp_path}/file/x", "--num_processes=1", *flags)
        assert result.returncode == 1
        assert ("Traceback" in result.stderr) == bool(flags)
        assert len(result.stderr.splitlines()) >= lines
        assert f"{tmp_path}/file" in result.stderr


def test_help_of_a_command_shows_its_flags():
    result = run("shapes", "--help")
    assert result.returncode == 0, result.stderr
    assert "Writes the embedded synthetic data set" in result.stdout
    assert "--num_images" in result.stdout


def test_help_of_training_starts_with_what_is_used_most():
    result = run("train", "--help")
    assert result.returncode == 0, result.stderr
    shown = re.findall(r"^  --(?:\[no\])?(\w+)", result.stdout, re.MULTILINE)
    first = ["experiment", "model_dir", "config_file", "params_override", "mode"]
    assert shown[:5] == first and "mixed_precision" in shown
    assert "gin_file" not in shown and "tpu_platform" not in shown
    assert "--mode=train|train_and_eval|eval|continuous_eval\n      What to run;" in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 100


SLOW_HELP = {"demo"}  # It is one module, which imports all of the package.


@pytest.mark.parametrize("name", sorted(set(COMMANDS) - SLOW_HELP))
def test_help_of_a_command_waits_for_no_tensorflow(name):
    code = (
        "import sys; from panoptic_tf.experiments import cli; "
        f"cli.main([{name!r}, '--help']); assert 'tensorflow' not in sys.modules"
    )
    result = run(program=("-c", code))
    assert result.returncode == 0, result.stderr[-500:]
    assert "  --" in result.stdout


def test_informational_messages_wait_for_the_flag(tmp_path):
    # `shapes` logs nothing itself; the module's main is replaced to see the level.
    code = (
        "import sys\n"
        "from absl import logging\n"
        "from panoptic_tf.experiments import cli, shapes\n"
        "shapes.main = lambda argv: print(logging.get_verbosity())\n"
        "cli.main(['shapes', '--output_dir=unused', *sys.argv[1:]])\n"
    )
    assert run(program=("-c", code)).stdout.strip() == "-1"
    assert run("--verbosity=1", program=("-c", code)).stdout.strip() == "1"


def test_experiments_are_listed():
    result = run("experiments", "--like=fcn_shapes")
    assert result.returncode == 0, result.stderr
    header, line = result.stdout.splitlines()
    assert header.split() == ["experiment", "backbone", "input", "steps", "x", "batch"]
    assert line.startswith("panoptic_fcn_shapes  resnet    128x128  8,000 x 16")
    assert "Panoptic FCN on the embedded data set" in line
    assert "no experiment has that" in run("experiments", "--like=nothing").stderr
