"""The `headatlas` command: finds the package that answers, and turns errors into one line.

The three packages do not import each other for this: a command names the module that answers it,
so serving needs no torch and precomputing needs no Dash.
"""

from __future__ import annotations

import argparse
import errno
import importlib
import os
import sys
from dataclasses import dataclass
from importlib.metadata import version
from types import ModuleType
from typing import NoReturn

from store.errors import AtlasError


@dataclass(frozen=True)
class Command:
    """`module` has `add_arguments(parser)` and `run(args) -> None`; `extra` is what it needs."""

    name: str
    module: str
    help: str
    extra: str = ""


COMMANDS = (
    Command("precompute", "precompute.cli",
            "write head scores of models over images into a store", "precompute"),
    Command("selftest", "precompute.selftest_cli",
            "prove on one model that what would be written is so", "precompute"),
    Command("demo", "precompute.demo", "the bundled ViTs on the bundled images, then serve them",
            "precompute"),
    Command("serve", "dashapp.cli", "show a store in the browser"),
    Command("sql", "store.commands.sql", "ask a store a question in SQL (read-only)"),
    Command("similar", "store.commands.similar", "the heads of other models most like one head"),
    Command("info", "store.commands.info", "what a store holds"),
    Command("schema", "store.commands.schema", "every table and column with its definition"),
)


def main(argv: list[str] | None = None) -> int:
    """Exit status: 0 done, 2 bad input (one line on stderr), 130 interrupted."""
    argv = sys.argv[1:] if argv is None else argv
    try:
        return _dispatch(argv)
    except AtlasError as error:
        return _refuse(str(error))
    except KeyboardInterrupt:
        print("\ninterrupted; the same command goes on from here", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if error.errno is None:
            raise
        return _refuse(_says(error))


def _dispatch(argv: list[str]) -> int:
    parser = _Parser(
        prog="headatlas", description="What the attention heads of Vision Transformers do.",
        epilog="headatlas COMMAND --help explains a command.")
    parser.add_argument("--version", action="version", version=f"headatlas {version('headatlas')}")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    wanted = next((a for a in argv if not a.startswith("-")), None)
    modules = {}
    for command in COMMANDS:
        sub = subparsers.add_parser(command.name, help=command.help, description=command.help)
        if command.name == wanted:
            modules[command.name] = _load(command)
            modules[command.name].add_arguments(sub)
    args = parser.parse_args(argv)
    modules[args.command].run(args)
    sys.stdout.flush()
    return 0


class _Parser(argparse.ArgumentParser):
    """argparse, but bad input is answered in one line like everything else."""

    def error(self, message: str) -> NoReturn:
        raise AtlasError(f"{message} (see {self.prog} --help)")


def _load(command: Command) -> ModuleType:
    try:
        return importlib.import_module(command.module)
    except ModuleNotFoundError as error:
        if not command.extra or error.name in ("precompute", "store", "dashapp"):
            raise
        raise AtlasError(f"headatlas {command.name} needs {error.name}: "
                         f"pip install 'headatlas[{command.extra}]'") from error


def _refuse(reason: str) -> int:
    line = " ".join(reason.split())
    print(f"headatlas: {line}", file=sys.stderr)
    return 2


def _says(error: OSError) -> str:
    """An operating system's error in words a user can act on."""
    where = f": {error.filename}" if error.filename else ""
    if error.errno == errno.ENOSPC:
        return f"the disk is full{where}; free some space and run the same command again"
    return f"{os.strerror(error.errno or 0)}{where}"


if __name__ == "__main__":
    sys.exit(main())
