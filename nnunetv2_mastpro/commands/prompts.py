"""Show what each label says to the network, edit it, or ask a language model for it."""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from pathlib import Path

from nnunetv2_mastpro.anatomy.masks import split_structure
from nnunetv2_mastpro.config import MASTProConfig
from nnunetv2_mastpro.datasets import dataset_json_paths, read_json_object
from nnunetv2_mastpro.errors import MASTProError
from nnunetv2_mastpro.listing import kind, nearest
from nnunetv2_mastpro.planning.anatomy import plans_files
from nnunetv2_mastpro.prompts.describe import Endpoint, describe
from nnunetv2_mastpro.prompts.edit import write_section
from nnunetv2_mastpro.prompts.encoder import DEFAULT_ENCODER, embed
from nnunetv2_mastpro.prompts.knowledge_base import find_organ
from nnunetv2_mastpro.prompts.resolve import Prompt, looks_like_tumor, readable, resolve_prompts
from nnunetv2_mastpro.prompts.sentences import plain_sentence, tumor_sentence

MAX_TIMEOUT_S = 3600


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `mastpro prompts`."""
    parser.add_argument("-d", "--dataset", metavar="DATASET", help="id or name of an nnU-Net dataset")
    parser.add_argument(
        "--encoder",
        default=DEFAULT_ENCODER,
        help="sentence-transformers model: a name or a folder (default: %(default)s)",
    )
    parser.add_argument(
        "--write", action="store_true", help="write the editable section mastpro.prompts to dataset.json"
    )
    parser.add_argument(
        "--describe",
        metavar="TUMOR",
        help="ask the chat model at MASTPRO_LLM_URL (MASTPRO_LLM_MODEL, MASTPRO_LLM_KEY) for a tumor's attributes",
    )
    parser.add_argument(
        "--timeout", type=float, default=60.0, metavar="SECONDS", help="for --describe (default: %(default)s)"
    )


def run(args: argparse.Namespace) -> int:
    """Runs the subcommand; 0 on success. Raises MASTProError."""
    if args.write and args.dataset is None:
        raise MASTProError("--write needs a dataset; give one with -d")
    if args.describe is None and args.dataset is None:
        raise MASTProError("nothing to do; give a dataset with -d, or a tumour's name with --describe")
    if not 0 < args.timeout <= MAX_TIMEOUT_S:
        raise MASTProError(f"--timeout {args.timeout:g} is not within 0 and {MAX_TIMEOUT_S}; give the seconds to wait")
    if args.describe is not None:
        _say(_description(args.describe, args.timeout))
    if args.dataset is not None:
        paths = dataset_json_paths(args.dataset)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # the listing says itself what has a name only
            written = write_section(paths) if args.write else []
            _say("".join(f"wrote {path}\n" for path in written))
            contents = [read_json_object(path) for path in paths]
            prompts = resolve_prompts(contents[-1], paths[-1].parent.name)
        _say(_listing(prompts, args.encoder))
        _say(_advice(prompts, args.write) + _unknown_hosts(prompts) + _other_encoders(paths[-1].parent, args.encoder))
        if contents[0].get("mastpro") != contents[-1].get("mastpro"):
            _say(
                f"\nThe mastpro sections of {paths[0]} and {paths[-1]} differ; training reads the latter, shown here\n"
            )
    return 0


def _listing(prompts: tuple[Prompt, ...], encoder: str) -> str:
    embeddings = embed([prompt.sentence for prompt in prompts], encoder)
    blocks = []
    for prompt, origin in zip(prompts, embeddings.origins, strict=True):
        blocks.append(
            f"{prompt.label}\n"
            f"  from       {prompt.origin}\n"
            f"  sentence   {prompt.sentence}\n"
            f"  kind       {kind(prompt.is_tumor)}\n"
            f"  hosts      {', '.join(prompt.host_structures) or 'none'}\n"
            f"  embedding  {origin} ({encoder})\n"
        )
    return "\n".join(blocks)


def _advice(prompts: tuple[Prompt, ...], written: bool) -> str:
    plain = [prompt.label for prompt in prompts if prompt.sentence == _plain(prompt)]
    if not plain:
        return ""
    how = (
        'put "tumor", "organ", "shape", "edge" and "host_structures" in the place of "sentence" there, and "is_tumor": '
        "true if it is one"
        if written
        else "fill in mastpro.prompts in dataset.json (--write prepares the section)"
    )
    return f"\n{', '.join(plain)}: nothing but the name is known; {how}; --describe asks a language model for them\n"


def _unknown_hosts(prompts: tuple[Prompt, ...]) -> str:
    """A line per host structure that TotalSegmentator does not make; masks of one's own may have such names."""
    from totalsegmentator.map_to_binary import class_map

    lines = ""
    for prompt in prompts:
        for host in prompt.host_structures:
            task, name = split_structure(host)
            known = [*class_map.get(task, {}).values()]
            if name not in known:
                meant = nearest(name, known)
                lines += f"\n{prompt.label}: TotalSegmentator makes no {host}; {meant}"
                lines += "Masks of your own may be called so.\n"
    return lines


def _other_encoders(folder: Path, encoder: str) -> str:
    """A line per plans of the data set that name another encoder than the one that is shown."""
    lines = ""
    for path, plans in plans_files(folder):
        try:
            used = MASTProConfig.from_dict(plans["mastpro"]).prompts.encoder if "mastpro" in plans else encoder
        except MASTProError:
            continue  # mastpro doctor tells what is wrong with these plans
        if used != encoder:
            lines += f"\n{path.name} names the text encoder {used}; --encoder {used} shows its embeddings\n"
    return lines


def _plain(prompt: Prompt) -> str:
    """What the prompt's label would say by its name alone, on the modality that its sentence ends with."""
    _, on, modality = prompt.sentence.rstrip(".").rpartition(" on ")
    return plain_sentence(readable(prompt.label), looks_like_tumor(prompt.label), modality if on else "")


def _description(name: str, timeout_s: float) -> str:
    attributes = describe(name, Endpoint.from_environment(), timeout_s)
    organ = find_organ(attributes["organ"])
    entry = {**attributes, "is_tumor": True, "host_structures": list(organ.host_structures) if organ else []}
    return f"{json.dumps(entry, indent=4, ensure_ascii=False)}\n{tumor_sentence(**attributes)}\n"


def _say(text: str) -> None:
    sys.stdout.write(text)
