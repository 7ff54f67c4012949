"""Where the masks of a case come from: the user's folder, TotalSegmentator, or nowhere."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Collection, Iterator, Mapping, Sequence
from importlib.metadata import version

import numpy as np

from nnunetv2_mastpro.anatomy import masks, totalseg
from nnunetv2_mastpro.anatomy.cases import Case
from nnunetv2_mastpro.anatomy.preprocessed import INDEX
from nnunetv2_mastpro.config import HostValue
from nnunetv2_mastpro.errors import MASTProError
from nnunetv2_mastpro.listing import some
from nnunetv2_mastpro.prompts.resolve import channel_names, channel_of

OPTIONS = ("masks", "without_masks", "maker", "resample", "lacking_is_absent", "fast", "device")


def is_mr_data(dataset_json: dict) -> bool:
    """Whether masks are those of MR images: a channel says MRI, and none CT."""
    return channel_of(dataset_json, "CT") is None and channel_of(dataset_json, "MRI") is not None


class Source:
    """Where the masks of a case come from."""

    def __init__(self, args: Namespace, hosts: Sequence[HostValue], dataset_json: dict):
        self.args = Namespace(**{name: getattr(args, name, None) for name in OPTIONS})  # which go to processes
        self.hosts, self.warnings = hosts, []
        self.structures = tuple(dict.fromkeys(structure for host in hosts for structure in host.structures))
        self.only_ct = all(str(name).casefold() == "ct" for name in channel_names(dataset_json).values())
        is_mri = is_mr_data(dataset_json)
        self.channel = channel_of(dataset_json, "MRI" if is_mri else "CT")  # that TotalSegmentator sees
        self.tasks = totalseg.tasks_of(self.structures, not is_mri)
        name_of = masks.of_mri if is_mri else masks.of_ct
        self.sought = {structure: name_of(structure) for structure in self.structures}

    def check(self, cases: Sequence[Case]) -> None:
        """Raise MASTProError for what can be seen from file names and headers."""
        if self.args.without_masks:
            return
        if self.args.maker:
            if self.channel is None:
                raise MASTProError(
                    "TotalSegmentator reads CT and MR images, and no channel of dataset.json says that it is one; name "
                    'it in channel_names, such as {"0": "MRI"}, or use --masks'
                )
            if len(cases[0].images) > 1:
                self.warnings.append(f"TotalSegmentator saw channel {self.channel:04d} of the images")
            totalseg.check_structures(self.tasks)
            self._check_hosts(
                {structure for structure, name in self.sought.items() if totalseg.is_made(name, self.tasks)},
                f"TotalSegmentator's task {masks.MR_TASK}, which MR images get, makes no",
                "use --masks",
            )
            totalseg.check_weights(self.tasks, self.args.fast)
            return
        folder = self.args.masks
        if not folder.is_dir():
            raise MASTProError(f"--masks {folder} is no folder; give one that holds a mask per case")
        if folder.resolve() in {case.target.parent.resolve() for case in cases}:
            raise MASTProError(f"--masks {folder} is where the maps go, which would overwrite the masks; give another")
        if (folder / INDEX).is_file():  # their values would be taken for TotalSegmentator's numbers
            raise MASTProError(f"--masks {folder} holds maps that mastpro anatomy made; give the masks of organs")
        images = {case.images[0].resolve().parent for case in cases}
        labels = {path.with_name(path.name.replace("images", "labels")) for path in images}
        if folder.resolve() in images | labels:
            raise MASTProError(f"--masks {folder} holds the images or labels of the data set; give masks of organs")
        resample = self.args.resample
        sought = tuple(self.sought.values())
        by_case = {c.name: self._found(masks.check_case(folder, c.name, sought, c.images[0], resample)) for c in cases}
        held = set().union(*by_case.values())
        lacking_cases = [name for name, structures in by_case.items() if not structures]
        if not held:
            raise MASTProError(
                f"--masks {folder} has a mask of no case; it must hold files such as {cases[0].name}.nii.gz (as "
                f"TotalSegmentator --ml writes) or folders such as {cases[0].name}/ with one file per structure"
            )
        remedy = f"give their files too (of another task of TotalSegmentator in {folder}/TASK/)"
        self._check_hosts(held, f"--masks {folder} has no case with", remedy)
        self._check_complete(by_case, held)
        never = [structure for structure in self.structures if structure not in held]
        if never:
            self.warnings.append(
                f"warning: no mask of {', '.join(never)} in {folder}; the map has the rest of their hosts"
            )
        if lacking_cases:
            first = lacking_cases[0]
            self.warnings.append(
                f"warning: no mask in {folder} for {some(lacking_cases, 10)} "
                f"(looked for {first}.nii.gz, {first}.nii, {first}/)"
            )

    def _check_hosts(self, held: set[str], lacks: str, remedy: str) -> None:
        """Raise MASTProError for a host of which no structure is held: empty in each map, it would mean absent."""
        lacking = [host for host in self.hosts if not held & {*host.structures}]
        if lacking:
            named = "; ".join(f"{', '.join(host.structures)} (value {host.value})" for host in lacking)
            raise MASTProError(
                f"{lacks} {named}; {remedy}, or set host_structures of their classes to [] in mastpro.prompts of "
                "dataset.json"
            )

    def _check_complete(self, by_case: Mapping[str, Sequence[str]], held: set[str]) -> None:
        """Raise MASTProError where a case has masks, but not all that others have: an organ without one is absent."""
        partial = {name: held.difference(names) for name, names in by_case.items() if names and held.difference(names)}
        if partial and not self.args.lacking_is_absent:
            named = some([f"{name} ({', '.join(sorted(names))})" for name, names in partial.items()], 10)
            raise MASTProError(
                f"--masks {self.args.masks} lacks structures that it has for other cases: {named}; give their masks, "
                "or --lacking-is-absent where the scans do not show these organs"
            )

    def read(self, case: Case) -> Iterator[tuple[str, np.ndarray]]:
        """Structures and their masks, one after the other."""
        if self.args.without_masks:
            return
        folder, name = self.args.masks, case.name
        if self.args.maker:
            folder, name = totalseg.run_cached(case.images[self.channel], self.tasks, self.args.fast, self.args.device)
        for found, mask in masks.read_case(
            folder, name, tuple(self.sought.values()), case.images[0], self.args.resample
        ):
            yield from ((structure, mask) for structure in self._found([found]))

    def stamp(self, case: Case) -> list:
        """What tells whether a case's map is to be made again: how masks are got, and its files' sizes and times.

        TotalSegmentator's release gives the numbers of masks without a header.
        """
        files, how = [*case.images], []
        if not self.args.without_masks:
            how = [version("totalsegmentator"), self.args.maker, self.args.fast, self.args.resample, self.channel]
            how += sorted(self.sought.items())
        if self.args.masks:
            files += [path for path, _ in masks.find_files(self.args.masks, case.name, tuple(self.sought.values()))]
        times = [(path.resolve(), path.stat()) for path in files]
        return [how, [[str(path), about.st_size, about.st_mtime_ns] for path, about in times]]

    def _found(self, names: Collection[str]) -> list[str]:
        """The structures that are sought by these names."""
        return [structure for structure, name in self.sought.items() if name in names]
