"""The console command: `panoptic-tf <command> [flags]`.

A command is a module of experiments/ or export/ that defines `main(argv)`. Its name has - where the
module's has _; a _ at the end, which keeps a module apart from Python's own, is dropped. The first
line of the module's docstring describes it. Only the module of the command that was asked for is
imported.
"""

from __future__ import annotations

import ast
import difflib
import functools
import importlib
import inspect
import os
import pathlib
import re
import sys
import textwrap
import warnings
from typing import Callable, Dict, List, NamedTuple, Optional, Sequence

import panoptic_tf
from panoptic_tf.experiments import noise

_PACKAGES = ("panoptic_tf.experiments", "panoptic_tf.export")
_HELP = ("--help", "-help", "-h", "--helpshort", "-helpshort", "--h")
_WRONG_USAGE = 2


class Command(NamedTuple):
    """A module that can be run.

    Attributes:
      module: its full name.
      summary: one line.
    """

    module: str
    summary: str


def find_commands() -> Dict[str, Command]:
    """Every command by name; reads the modules without importing them."""
    commands = {}
    for package in _PACKAGES:
        folder = pathlib.Path(importlib.import_module(package).__file__).parent
        for path in sorted(folder.glob("*.py")):
            summary = None if path.stem == "cli" else _read_summary(path)
            if summary is not None:
                commands[_name_of(path)] = Command(f"{package}.{path.stem}", summary)
    return commands


def _name_of(path: pathlib.Path) -> str:
    return path.stem.rstrip("_").replace("_", "-")


def _read_summary(path: pathlib.Path) -> Optional[str]:
    """First line of the docstring, or None for a module without `main`."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    if not any(isinstance(node, ast.FunctionDef) and node.name == "main" for node in tree.body):
        return None
    return (ast.get_docstring(tree) or "").split("\n", 1)[0]


def main(arguments: Optional[Sequence[str]] = None) -> None:
    """Runs the command that the arguments name.

    Args:
      arguments: without the program's name; default the process's own.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    commands = find_commands()
    if not arguments:
        print(_usage(commands), file=sys.stderr)
        sys.exit(_WRONG_USAGE)
    name, rest = arguments[0], arguments[1:]
    if name in _HELP or name == "help" and not rest:
        print(_usage(commands))
    elif name == "--version":
        print(panoptic_tf.__version__)
    elif name == "help":
        _run(rest[0], ["--help"], commands)
    else:
        _run(name, rest, commands)


def _usage(commands: Dict[str, Command]) -> str:
    width = max(map(len, commands))
    lines = [f"  {name:{width}}  {command.summary}" for name, command in commands.items()]
    return "\n".join(
        [
            "usage: panoptic-tf <command> [flags]",
            "",
            *lines,
            "",
            "`panoptic-tf <command> --help` shows the flags of a command.",
        ]
    )


def _run(name: str, arguments: List[str], commands: Dict[str, Command]) -> None:
    if name not in commands:
        close = difflib.get_close_matches(name.replace("_", "-"), commands)
        hint = f"Did you mean {' or '.join(close)}?" if close else "`panoptic-tf --help` lists all."
        print(f"panoptic-tf: no command {name!r}. {hint}", file=sys.stderr)
        sys.exit(_WRONG_USAGE)
    _quieten()
    module = importlib.import_module(commands[name].module)
    if any(argument in _HELP for argument in arguments):
        print(_help(name, module))
        return
    # Shown by --helpfull.
    sys.modules["__main__"].__doc__ = module.__doc__
    _run_main(name, module.main, arguments)


def run_script(path: str, main: Callable[[Sequence[str]], None]) -> None:
    """Runs a command's file as `panoptic-tf` runs the command.

    Args:
      path: of the file.
      main: its function.
    """
    _run_main(_name_of(pathlib.Path(path)), main, sys.argv[1:])


def _run_main(name: str, main: Callable[[Sequence[str]], None], arguments: Sequence[str]) -> None:
    from absl import app

    from panoptic_tf.experiments import usage

    # absl shows informational messages unless told otherwise; a later --verbosity wins.
    sys.argv = [f"panoptic-tf {name}", "--verbosity=-1", *arguments]
    app.run(functools.partial(_run_command, name, main), sys.argv, usage.parse_flags)


def _run_command(name: str, command: Callable[[Sequence[str]], None], argv: Sequence[str]) -> None:
    """Runs a command; what is wrong with its input is said in few lines, without a traceback."""
    from absl import app, logging

    from panoptic_tf.experiments import errors, usage

    try:
        command(argv)
    except app.UsageError as error:
        usage.fail(f"panoptic-tf {name}", str(error))
    except errors.of_input() as error:
        if logging.get_verbosity() >= logging.INFO:
            raise
        text = errors.describe(error)
        print(f"panoptic-tf {name}: {text} (--verbosity=0 shows where)", file=sys.stderr)
        sys.exit(1)


def _quieten() -> None:
    """Leaves out the start-up messages of TensorFlow and of the packages that come with it."""
    if os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2") not in ("0", "1"):  # More is wanted.
        noise.filter_lines()
    warnings.filterwarnings("ignore", category=FutureWarning, module="google")


def _help(name: str, module) -> str:
    """Docstring of a command and the flags it takes."""
    from absl import flags

    parts = [inspect.cleandoc(module.__doc__ or name)]
    for flag in flags.FLAGS:  # In the order of their definition.
        if flags.FLAGS.find_module_defining_flag(flag).startswith("panoptic_tf."):
            parts.append(_describe(flags.FLAGS[flag]))
    return "\n".join([parts[0], "", *parts[1:]])


def _describe(flag) -> str:
    """Name, values, default and meaning of a flag, in lines of a terminal."""
    values = "" if flag.boolean else f"={'|'.join(getattr(flag.parser, 'enum_values', ['...']))}"
    default = "" if flag.default in (None, [], "") else f" Default {flag.default_as_str[1:-1]}."
    # absl puts the values before the help and a remark on repetition behind it.
    meaning = re.sub(r"^<\S*>: |;\s+repeat this option.*", "", flag.help, flags=re.DOTALL)
    text = textwrap.fill(
        f"{meaning}{default}", 96, initial_indent=" " * 6, subsequent_indent=" " * 6
    )
    return f"  --{'[no]' if flag.boolean else ''}{flag.name}{values}\n{text}"


if __name__ == "__main__":
    main()
