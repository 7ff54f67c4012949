"""Print the shell lines that let nnU-Net find the plugin: eval "$(mastpro env)".

nnUNet_extTrainer is a list; what it already holds is kept.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys

from nnunetv2_mastpro.resources import ext_trainers

FOLDER_VARIABLES = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """None: what is printed depends on the environment only."""


def run(args: argparse.Namespace) -> int:
    """Exports go to stdout, for the shell; notes to stderr, for the reader."""
    print(f"export nnUNet_extTrainer={shlex.quote(ext_trainers())}")
    for name in FOLDER_VARIABLES:
        if not os.environ.get(name):
            print(f"mastpro: note: {name} is not set; export {name}=/path/to/{name}", file=sys.stderr)
    return 0
