"""Train and predict on a synthetic CT data set with stock nnU-Net commands, and show the result.

Writes five phantom data sets, which each annotate some tumour types, and organ masks; merges them, plans, makes
host-organ maps, trains one network with the plugin, predicts unseen cases and evaluates: 4 to 11 minutes on 2
cores. Ends with a Dice table, pictures and index.html, the model's report. Run again with the same folder after an
interruption: finished steps are skipped. With --scans it writes nothing but what docs/tutorial.md begins with.
"""

from __future__ import annotations

import argparse
import shlex
import time
from pathlib import Path

from nnunetv2_mastpro.errors import MASTProError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """One folder holds all that the demo writes."""
    parser.add_argument(
        "-o",
        "--output",
        metavar="FOLDER",
        required=True,
        type=Path,
        help="new or empty folder, or an earlier demo's to go on with",
    )
    parser.add_argument(
        "--with-baseline",
        action="store_true",
        help="also train stock nnU-Net for the same steps with the same optimizer; takes longer",
    )
    parser.add_argument(
        "--scans",
        action="store_true",
        help="only write a few scans and masks of them into -o, beside what is there",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the phantom and the training (default 0)")


def run(args: argparse.Namespace) -> int:
    """Always 0 when all steps ended, whatever the Dice."""
    if args.scans:
        from nnunetv2_mastpro.demo.scans import write_scans

        if args.with_baseline or args.seed:
            raise MASTProError("--scans writes always the same, and only that; leave out --with-baseline and --seed")
        print("".join(f"wrote {path}\n" for path in write_scans(args.output.resolve())), end="")
        return 0
    from nnunetv2_mastpro.demo.design import BASELINE, DEMO, MASTPRO

    run_models(args.output.resolve(), args.seed, [MASTPRO] + [BASELINE] * args.with_baseline, DEMO)
    return 0


def run_models(folder: Path, seed: int, models: list, design) -> None:
    """The demo of a design with these models; the first is the one that the demo is about."""
    from nnunetv2_mastpro.demo import pipeline
    from nnunetv2_mastpro.demo.design import Layout
    from nnunetv2_mastpro.processes import environment
    from nnunetv2_mastpro.state import State
    from nnunetv2_mastpro.steps import run_steps, spell

    if not 0 <= seed < 2**32:
        raise MASTProError(f"--seed {seed} is not within 0 and {2**32 - 1}; give another")
    started = time.monotonic()
    state = State(folder, pipeline.settings(seed, design))
    layout = Layout(folder)
    added = pipeline.variables(layout, seed, design)
    environ = environment(added)
    print("These variables are set for the commands below:")
    print("\n".join(pipeline.exports(added)))
    run_steps(pipeline.preparation(layout, seed, design), state, layout.logs, environ)
    for model in models:
        run_steps(pipeline.model_steps(layout, model, design), state, layout.logs, environ)
    show_result(layout, state, seed, models, design, added)
    print(f"All of it took {spell(time.monotonic() - started)}.")


def show_result(layout, state, seed: int, models: list, design, added: dict[str, str]) -> None:
    """Table, and index.html: the report of the first model, with the demo's own table, commands and times."""
    from nnunetv2_mastpro.demo import pipeline, report, results
    from nnunetv2_mastpro.files import write_atomically
    from nnunetv2_mastpro.report.findings import Request
    from nnunetv2_mastpro.report.job import make_report

    dice = {model.title: results.read_means(layout.summary(model), design.types) for model in models}
    counts = {model.title: results.read_counts(layout.summary(model), design.types) for model in models}
    rows = report.dice_rows(dice, counts)
    variables = layout.folder / "env.sh"
    write_atomically({variables: "\n".join([*pipeline.exports(added, repeat=False), ""]).encode()})
    training_steps = design.epochs * design.steps_per_epoch
    print(f"\nMake the page of {models[0].title}", flush=True)
    page, _ = make_report(
        Request(
            model=layout.results(models[0]),
            images=layout.unseen / "imagesTs",
            predictions=layout.predictions(models[0]),
            output=layout.folder,
            reference=layout.unseen / "labelsTs",
            maps=layout.maps,
            workers=pipeline.WORKERS,
            pictures=layout.folder / "pictures",
        ),
        report.describe_demo(rows, state.steps, pipeline.exports(added), seed, training_steps),
    )
    print(
        f"\n{report.text_table(rows)}\n"
        f"{report.CONVENTIONS}\n\n"
        f"Page with pictures and a 3D viewer: {page}\nThe pictures as files: {layout.folder / 'pictures'}\n"
        f"To go on with these data and this model: . {shlex.quote(str(variables))}"
    )
