"""Reads a command's flags, and says in a few lines everything that is wrong with them."""

from __future__ import annotations

import difflib
import re
import sys
from typing import List, NoReturn, Sequence

from absl import flags

_VALUE = re.compile(r"flag --(\w+)=(.*?): (.*)", re.DOTALL)
_MISSING = re.compile(r"flag --(\w+)=None: .*must have a value other than None\.?$")
_ONE_OF = re.compile(r".*(Exactly|At most) one of \((.*)\) must have a value other than None")

# What others call what is a key of the config here.
_KEYS = {
    "trainer.train_steps": "epochs epoch num_epochs max_epochs steps max_steps num_steps "
    "train_steps iterations max_iter",
    "task.train_data.global_batch_size": "batch batch_size bs train_batch_size global_batch_size",
    "trainer.optimizer_config.learning_rate": "lr learning_rate base_lr initial_learning_rate",
    "trainer.optimizer_config.optimizer.type": "optimizer optim",
    "trainer.checkpoint_interval": "save_every checkpoint_interval save_interval",
    "trainer.validation_interval": "eval_every eval_interval validation_interval",
    "task.train_data.input_path": "data data_dir dataset train_data train_path input_path",
    "task.train_data.seed": "seed",
    "task.model.input_size": "size image_size img_size imgsz input_size resolution",
    "task.model.backbone.name": "backbone",
    "task.init_checkpoint": "weights pretrained init_checkpoint load checkpoint_path",
    "task.validation_data.input_path": "val_data val_path eval_data",
}
_FLAGS = {"gpu": "num_gpus", "gpus": "num_gpus", "devices": "num_gpus", "config": "config_file"}


def parse_flags(argv: Sequence[str]) -> List[str]:
    """Parses the flags, or ends the process with exit code 1.

    Args:
      argv: the command's name and its arguments.

    Returns:
      What of it is no flag.
    """
    try:
        return flags.FLAGS(argv)
    except flags.UnrecognizedFlagError as error:
        problems = [_unknown(error.flagname)]
    except flags.Error as error:
        problems = _explain(str(error))
    except ValueError as error:  # a value that ends within its quotes, for example
        problems = [str(error)]
    fail(argv[0], "\n".join(problems))


def fail(command: str, problem: str) -> NoReturn:
    """Ends the process with exit code 1, after a message."""
    print(f"{command}: {problem}\n`{command} --help` shows the flags.", file=sys.stderr)
    sys.exit(1)


def _unknown(name: str) -> str:
    text = f"there is no flag --{name}."
    own = [flag for flag in flags.FLAGS if _is_of_command(flag)]
    close = [_FLAGS[name]] if _FLAGS.get(name) in own else []
    close = close or difflib.get_close_matches(name, own, n=2)
    hints = [f"Did you mean --{' or --'.join(close)}?"] if close else []
    if "params_override" in own:
        keys = [key for key, names in _KEYS.items() if name.lower() in names.split()]
        hints = [f"Set --params_override={key}=... instead." for key in keys] or hints
    return " ".join([text, *hints])


def _is_of_command(flag: str) -> bool:
    module = flags.FLAGS.find_module_defining_flag(flag) or ""
    return module.startswith("panoptic_tf.") or module.endswith(".py")


def _explain(message: str) -> List[str]:
    missing, others = [], []
    for line in message.strip().split("\n"):
        absent, value, one_of = (p.match(line) for p in (_MISSING, _VALUE, _ONE_OF))
        if absent:
            missing.append(f"--{absent.group(1)}")
        elif one_of:
            names = [f"--{name.strip()}" for name in one_of.group(2).split(",")]
            others.append(f"{one_of.group(1).lower()} one of {', '.join(names)} must be given.")
        elif value:
            others.append(_explain_value(*value.groups()))
        else:
            others.append(line.replace("ERROR:: ", ""))
    if missing:
        others.insert(0, f"missing: {', '.join(missing)}.")
    return others


def _explain_value(name: str, value: str, reason: str) -> str:
    if re.search("invalid literal|could not convert|Non-boolean", reason):
        reason = f"expected {_expected(name)}."
    choices = re.fullmatch(r"value should be one of <(.*)>", reason)
    if choices:
        reason = f"must be one of {', '.join(choices.group(1).split('|'))}."
        close = difflib.get_close_matches(value, choices.group(1).split("|"), n=1)
        reason += f" Did you mean {close[0]}?" if close else ""
    return f"--{name}={value}: {reason}"


def _expected(name: str) -> str:
    return getattr(flags.FLAGS[name].parser, "syntactic_help", "") or "true or false"
