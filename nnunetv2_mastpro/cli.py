"""The `mastpro` command: one module of `nnunetv2_mastpro.commands` per subcommand."""

from __future__ import annotations

import argparse
import importlib
import os
import re
import sys
from collections.abc import Sequence
from typing import NoReturn

from nnunetv2_mastpro import __version__
from nnunetv2_mastpro.errors import MASTProError
from nnunetv2_mastpro.listing import nearest

COMMANDS = {  # name -> module with a docstring, add_arguments(parser) and run(args) -> int; light to import
    "env": "nnunetv2_mastpro.commands.env",
    "doctor": "nnunetv2_mastpro.commands.doctor",
    "prompts": "nnunetv2_mastpro.commands.prompts",
    "anatomy": "nnunetv2_mastpro.commands.anatomy",
    "convert": "nnunetv2_mastpro.commands.convert",
    "merge": "nnunetv2_mastpro.commands.merge",
    "plan": "nnunetv2_mastpro.commands.plan",
    "add-tumour": "nnunetv2_mastpro.commands.add_tumour",
    "pack": "nnunetv2_mastpro.commands.pack",
    "unpack": "nnunetv2_mastpro.commands.unpack",
    "weights": "nnunetv2_mastpro.commands.weights",
    "postprocess": "nnunetv2_mastpro.commands.postprocess",
    "evaluate": "nnunetv2_mastpro.commands.evaluate",
    "compare": "nnunetv2_mastpro.commands.compare",
    "cv": "nnunetv2_mastpro.commands.cv",
    "experts": "nnunetv2_mastpro.commands.experts",
    "report": "nnunetv2_mastpro.commands.report",
    "recipe": "nnunetv2_mastpro.commands.recipe",
    "demo": "nnunetv2_mastpro.commands.demo",
}
ALIASES = {"add-tumor": "add-tumour"}
STOCK = {  # what users look for here -> what does it
    "train": "nnUNetv2_train DATASET CONFIGURATION FOLD -tr nnUNetTrainerMASTPro",
    "predict": "nnUNetv2_predict -i IMAGES -o PREDICTIONS -d DATASET -c CONFIGURATION -tr nnUNetTrainerMASTPro",
}
RC_BAD_INPUT = 2  # what argparse ends with too
RC_INTERRUPTED = 130
RC_BROKEN_PIPE = 141


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one subcommand and gives its exit status: 2 with one sentence for what the user can repair."""
    arguments = list(sys.argv[1:] if argv is None else argv) or ["--help"]
    args, unknown = _parser(arguments).parse_known_args(arguments)
    if unknown:
        _refuse(args.parser, unknown)
    debug = getattr(args, "debug", False)
    try:
        status = args.run(args)
        sys.stdout.flush()
        return status
    except MASTProError as error:
        if debug:
            raise
        print(f"mastpro: error: {' '.join(str(error).split())}", file=sys.stderr)
        return RC_BAD_INPUT
    except BrokenPipeError:  # `mastpro prompts -d 7 | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return RC_BROKEN_PIPE
    except OSError as error:
        if debug:
            raise
        print(f"mastpro: error: {error}; check the path, its permissions and the free space", file=sys.stderr)
        return RC_BAD_INPUT
    except KeyboardInterrupt:
        if debug:
            raise
        print("mastpro: interrupted", file=sys.stderr)
        return RC_INTERRUPTED


def _parser(arguments: Sequence[str]) -> argparse.ArgumentParser:
    """Imports the named subcommand only, so that a broken or slow one cannot hold up the others."""
    debug = argparse.ArgumentParser(add_help=False)  # no default: a subparser's would undo `mastpro --debug COMMAND`
    debug.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help="errors with their traceback")
    parser = argparse.ArgumentParser(prog="mastpro", description="MAST-Pro for nnU-Net v2.", parents=[debug])
    parser.add_argument("--version", action="version", version=f"nnunetv2_mastpro {__version__}")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    named = next((argument for argument in arguments if not argument.startswith("-")), None)
    named = ALIASES.get(named, named)
    if named in STOCK:
        parser.error(f"there is no command {named!r}: nnU-Net's own does it, {STOCK[named]}")
    if named is not None and named not in COMMANDS:
        parser.error(f"there is no command {named!r}; {nearest(named, [*COMMANDS])}`mastpro --help` lists them")
    for name in [named] if named else COMMANDS:
        module = importlib.import_module(COMMANDS[name])
        text = (module.__doc__ or "").strip()
        subparser = subparsers.add_parser(
            name,
            aliases=[alias for alias, command in ALIASES.items() if command == name],
            help=text.split("\n")[0],
            description=text,
            parents=[debug],
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(subparser)
        subparser.set_defaults(run=module.run, parser=subparser)
    return parser


def _refuse(parser: argparse.ArgumentParser, unknown: Sequence[str]) -> NoReturn:
    """With the subcommand's usage and the option that may be meant; argparse would show that of `mastpro`."""
    options = sorted({*re.findall(r"--?[\w-]+", parser.format_usage())})
    meant = nearest(unknown[0].partition("=")[0], options) if unknown[0].startswith("-") else ""
    parser.error(f"unrecognized arguments: {' '.join(unknown)}{'; ' if meant else ''}{meant.strip()}")


if __name__ == "__main__":
    sys.exit(main())
