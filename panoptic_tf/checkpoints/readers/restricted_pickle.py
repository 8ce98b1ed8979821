"""Pickles of weights, read without Python's unpickler: nothing that they name is run or imported.

A small machine for the opcodes that arrays, numbers, text and containers need. What it meets
beside these is refused by its name.
"""

from __future__ import annotations

import collections
import pickletools
import struct
from typing import Any, Callable, Dict, List, Optional, Tuple

from panoptic_tf.checkpoints.readers.arrays import CheckpointError
from panoptic_tf.checkpoints.readers.mapped import MappedFile
from panoptic_tf.checkpoints.readers.pickle_arguments import READERS, Arguments, Refused
from panoptic_tf.checkpoints.readers.pickle_symbols import (
    SYMBOLS,
    PickledArray,
    PickledType,
    Symbol,
    Table,
    checked_key,
    describe,
    make_dict,
)

# A tensor takes some 25 opcodes and 10 entries of the memo, so that 100,000 of them fit; no opcode
# makes more than a small object or what has its bytes in the file.
MAX_OPCODES = 5_000_000
MAX_MEMO = 2_000_000
# Open brackets; a dict within a dict takes one.
MAX_MARKS = 1_000
_PROTOCOLS = range(6)

_PUSHED = frozenset(
    [
        *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
        *("STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
        *("BYTEARRAY8", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    ]
)
_OPCODES = {ord(opcode.code): opcode for opcode in pickletools.opcodes}

PersistentLoad = Callable[[Any], Any]


def load(
    file: MappedFile,
    start: int = 0,
    stop: Optional[int] = None,
    *,
    symbols: Optional[Table] = None,
    persistent_load: Optional[PersistentLoad] = None,
) -> Tuple[Any, int]:
    """Reads one pickle.

    Args:
      file: the mapped file.
      start: first byte of the pickle.
      stop: the byte after the last that it may reach; None: the end of the file.
      symbols: names to admit beside NumPy's and Python's.
      persistent_load: what a persistent id stands for; None: there may be none.

    Returns:
      What was pickled, with arrays as `PickledArray`; and the byte after the pickle.

    Raises:
      CheckpointError: the file ends early, is damaged, or holds what weights do not.
    """
    stop = file.size if stop is None else stop
    arguments = Arguments(file, start, stop)
    machine = _Machine(arguments, {**SYMBOLS, **(symbols or {})}, persistent_load)
    try:
        return machine.run(), arguments.position
    except Refused as error:
        raise file.error(
            f"holds {error} (before byte {arguments.position}). Of a pickle, arrays of numbers, "
            f"text and containers are read, and nothing is run.{_HINT if persistent_load else ''}"
        ) from error
    except CheckpointError:
        raise
    except _DAMAGED as error:
        raise file.error(
            f"is damaged, or no pickle: what ends at byte {arguments.position} makes no sense "
            f"({type(error).__name__}: {error})."
        ) from error


_HINT = " Save the weights alone: torch.save({'state_dict': model.state_dict()}, 'weights.pth')."
_DAMAGED = (LookupError, TypeError, ValueError, ArithmeticError, AttributeError, struct.error)


class _Machine:
    """The stack, the memo, and what each opcode does to them."""

    def __init__(self, arguments: Arguments, symbols: Table, persistent_load):
        self._arguments = arguments
        self._symbols = symbols
        self._persistent_load = persistent_load
        self._stack: List[Any] = []
        self._outer: List[List[Any]] = []
        self._memo: Dict[int, Any] = {}
        self._actions = {
            name[len("_do_") :].upper(): getattr(self, name)
            for name in dir(self)
            if name.startswith("_do_")
        }

    def run(self) -> Any:
        """Goes through the opcodes up to the last."""
        for _ in range(MAX_OPCODES):
            code = self._arguments.unpack("<B")
            opcode = _OPCODES.get(code)
            if opcode is None:
                raise ValueError(f"no opcode is {bytes([code])!r}")
            argument = READERS[opcode.arg.name](self._arguments) if opcode.arg else None
            if opcode.name in _PUSHED:
                self._stack.append(argument)
            elif opcode.name == "STOP":
                return self._stack.pop()
            elif opcode.name in self._actions:
                self._actions[opcode.name](argument)
            else:
                raise Refused(self._unknown(opcode.name, argument))
        raise Refused(f"more than {MAX_OPCODES} opcodes")

    def _unknown(self, name: str, argument: Any) -> str:
        if isinstance(argument, tuple):
            argument = ".".join(argument)
        if name in ("NEWOBJ", "NEWOBJ_EX", "OBJ"):
            argument = ", ".join(item.name for item in self._stack if isinstance(item, Symbol))
        return f"the opcode {name}" + ("" if argument in (None, "") else f" of {argument}"[:200])

    # What stands by itself

    def _do_proto(self, version: int) -> None:
        if version not in _PROTOCOLS:
            raise Refused(f"protocol {version} of pickle")

    def _do_frame(self, size: int) -> None:
        # Only says how much to read ahead; looks whether it is there.
        start = self._arguments.position
        self._arguments.take(size)
        self._arguments.position = start

    def _do_none(self, _) -> None:
        self._stack.append(None)

    def _do_newtrue(self, _) -> None:
        self._stack.append(True)

    def _do_newfalse(self, _) -> None:
        self._stack.append(False)

    # The stack and the memo

    def _do_mark(self, _) -> None:
        if len(self._outer) >= MAX_MARKS:
            raise Refused(f"more than {MAX_MARKS} containers within one another")
        self._outer.append(self._stack)
        self._stack = []

    def _pop_mark(self) -> List[Any]:
        items, self._stack = self._stack, self._outer.pop()
        return items

    def _do_pop(self, _) -> None:
        if self._stack:
            self._stack.pop()
        else:
            self._pop_mark()

    def _do_pop_mark(self, _) -> None:
        self._pop_mark()

    def _do_dup(self, _) -> None:
        self._stack.append(self._stack[-1])

    def _do_binput(self, index: int) -> None:
        if index < 0 or len(self._memo) >= MAX_MEMO:
            raise Refused(f"entry {index} of the memo")
        self._memo[index] = self._stack[-1]

    _do_long_binput = _do_binput
    _do_put = _do_binput

    def _do_memoize(self, _) -> None:
        self._do_binput(len(self._memo))

    def _do_binget(self, index: int) -> None:
        self._stack.append(self._memo[index])

    _do_long_binget = _do_binget
    _do_get = _do_binget

    # Containers

    def _do_empty_tuple(self, _) -> None:
        self._stack.append(())

    def _do_empty_list(self, _) -> None:
        self._stack.append([])

    # Nothing asks for a set of a checkpoint. As a list, it is small and hashes nothing.
    _do_empty_set = _do_empty_list

    def _do_empty_dict(self, _) -> None:
        self._stack.append({})

    def _do_tuple(self, _) -> None:
        items = self._pop_mark()
        self._stack.append(tuple(items))

    def _do_tuple1(self, _) -> None:
        self._stack[-1:] = [(self._stack[-1],)]

    def _do_tuple2(self, _) -> None:
        self._stack[-2:] = [(self._stack[-2], self._stack[-1])]

    def _do_tuple3(self, _) -> None:
        self._stack[-3:] = [(self._stack[-3], self._stack[-2], self._stack[-1])]

    def _do_list(self, _) -> None:
        items = self._pop_mark()
        self._stack.append(items)

    def _do_dict(self, _) -> None:
        items = self._pop_mark()
        self._stack.append(make_dict(_pairs(items)))

    def _do_frozenset(self, _) -> None:
        items = self._pop_mark()
        self._stack.append(tuple(items))

    def _do_append(self, _) -> None:
        item = self._stack.pop()
        self._top(list, "APPEND").append(item)

    def _do_appends(self, _) -> None:
        items = self._pop_mark()
        self._top(list, "APPENDS").extend(items)

    _do_additems = _do_appends

    def _do_setitem(self, _) -> None:
        value, key = self._stack.pop(), self._stack.pop()
        self._top(dict, "SETITEM")[checked_key(key)] = value

    def _do_setitems(self, _) -> None:
        items = self._pop_mark()
        self._top(dict, "SETITEMS").update(make_dict(_pairs(items)))

    def _top(self, kind: type, opcode: str) -> Any:
        if not isinstance(self._stack[-1], kind):
            raise Refused(f"{opcode} on {describe(self._stack[-1])}")
        return self._stack[-1]

    # What is named

    def _do_global(self, names: Tuple[str, str]) -> None:
        symbol = self._symbols.get(names)
        if symbol is None:
            raise Refused(".".join(names)[:200])
        self._stack.append(symbol)

    def _do_stack_global(self, _) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise Refused("STACK_GLOBAL of what is no name")
        self._do_global((module, name))

    def _do_reduce(self, _) -> None:
        values, function = self._stack.pop(), self._stack.pop()
        if not isinstance(function, Symbol) or function.call is None:
            raise Refused(f"a call of {describe(function)}")
        if not isinstance(values, tuple):
            raise Refused(f"a call with {describe(values)}")
        self._stack.append(function.call(*values))

    def _do_build(self, _) -> None:
        state, target = self._stack.pop(), self._stack[-1]
        if isinstance(target, (PickledArray, PickledType)):
            target.build(state)
        # PyTorch hangs the versions of layers on the dict of weights; they are left out.
        elif not isinstance(target, collections.OrderedDict) or not isinstance(state, dict):
            raise Refused(f"BUILD on {describe(target)}")

    def _do_binpersid(self, _) -> None:
        if self._persistent_load is None:
            raise Refused("the opcode BINPERSID, where no storages are")
        self._stack.append(self._persistent_load(self._stack.pop()))


def _pairs(items: List[Any]) -> List[Tuple[Any, Any]]:
    if len(items) % 2:
        raise ValueError("a key without a value")
    return list(zip(items[::2], items[1::2]))
