"""Which cases training draws, and where in them a patch is centred.

X, Y, Z the sides of a preprocessed case in voxels.

nnU-Net's loader draws uniformly from a list of cases and then centres a share of the patches on a class of the case,
so both are chosen by what the loader is given: names as often as they are to be drawn, and the places of tumours alone.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from nnunetv2_mastpro.datasets import values_of

NO_TUMOR = "no tumour type"
RESOLUTION = 20  # list entries per case: shares of the draws are right to about a twentieth of a case's


def draw_shares(types: Mapping[str, Sequence[str]], sources: Mapping[str, str], temperature: float) -> dict[str, float]:
    """Share of the draws of each case; they sum to 1.

    A tumour type is drawn with probability n^temperature, n the cases of that type, then a source of it likewise, then
    a case of both. A case of several types counts for each by an equal part; one without any is of the type "none".
    Temperature 1 draws every case alike, 0 every type, and within it every source.
    """
    strata = {case: [(kind, sources[case]) for kind in found or [NO_TUMOR]] for case, found in types.items()}
    sizes: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for stratum in strata.values():
        for kind, source in stratum:
            sizes[kind][source] += 1 / len(stratum)
    kinds = _tempered({kind: sum(parts.values()) for kind, parts in sizes.items()}, temperature)
    parts = {kind: _tempered(by_source, temperature) for kind, by_source in sizes.items()}
    return {
        case: sum(kinds[kind] * parts[kind][source] / sizes[kind][source] / len(stratum) for kind, source in stratum)
        for case, stratum in strata.items()
    }


def _tempered(sizes: Mapping[str, float], temperature: float) -> dict[str, float]:
    powers = {name: size**temperature for name, size in sizes.items()}
    return {name: power / sum(powers.values()) for name, power in powers.items()}


def repeated(shares: Mapping[str, float]) -> list[str]:
    """Each case as often as its share of RESOLUTION entries a case says, at least once."""
    total = RESOLUTION * len(shares)
    return [case for case, share in shares.items() for _ in range(max(1, round(share * total)))]


class HostRegion:
    """Where patches without a tumour are centred: in a case's host organs, up to `margin` voxels (X, Y, Z) outside.

    The loader must centre every patch on one of the places that it is given, and a share `foreground_share` of them
    then is a tumour's.
    """

    places_kept = 10_000  # of a case, as nnU-Net keeps of a class

    def __init__(self, margin: Sequence[int], foreground_share: float):
        self.margin, self.foreground_share = np.array(margin), foreground_share
        self.known: dict[str, np.ndarray] = {}

    def choose(self, case: str, organs, tumors: dict) -> dict:
        """class_locations of one kind: `tumors`, or around the organs of the map (X, Y, Z), if it has any."""
        if tumors and np.random.uniform() < self.foreground_share:
            return tumors
        if case not in self.known:
            places = np.argwhere(np.asarray(organs[:]) > 0)
            kept = np.random.choice(len(places), min(len(places), self.places_kept), replace=False)
            self.known[case] = places[kept].astype(np.int16)
        if not len(self.known[case]):
            return {}
        moved = self.known[case] + np.random.randint(-self.margin, self.margin + 1, self.known[case].shape)
        inside = moved.clip(0, np.array(organs.shape) - 1)
        return {1: np.pad(inside, ((0, 0), (1, 0)))}  # nnU-Net's places begin with a channel


class SampledCases:
    """A data set of nnU-Net, as its loader sees it: the cases of `identifiers`, patches centred on tumours.

    A case without a voxel of `tumors` (labels or regions of nnU-Net's class_locations) keeps all its classes. With a
    `region` all other patches are centred there.
    """

    def __init__(self, dataset, identifiers: list[str], tumors: Iterable, region: HostRegion | None = None):
        self.dataset, self.identifiers, self.region = dataset, np.array(identifiers), region  # drawn from as an array
        self.tumors = [values_of(tumor) for tumor in tumors]

    def __getattr__(self, name: str):
        if name == "dataset":  # while it is being unpickled
            raise AttributeError(name)
        return getattr(self.dataset, name)

    def load_case(self, identifier: str):
        """As nnU-Net's; of the properties' class_locations those of tumours."""
        data, segmentation, previous, properties = self.dataset.load_case(identifier)
        places = self._locations(identifier, properties["class_locations"], previous)
        return data, segmentation, previous, {**properties, "class_locations": places}

    def _locations(self, case: str, places: dict, organs) -> dict:
        tumors = {key: where for key, where in places.items() if values_of(key) in self.tumors and len(where)}
        if self.region is not None:
            return self.region.choose(case, organs, tumors)
        if not tumors:
            return places
        whole = {key: where for key, where in places.items() if isinstance(key, tuple) and -1 in key}  # for ignore
        return {**tumors, **whole}


def tumors_of(properties: dict, tumors: Mapping) -> list[str]:
    """Names of the tumour types (name -> label or region) of which the case has a voxel."""
    places = {values_of(key): where for key, where in properties["class_locations"].items()}
    return [name for name, label in tumors.items() if len(places.get(values_of(label), ()))]


def histogram(drawn: Counter, types: Mapping[str, Sequence[str]], sources: Mapping[str, str]) -> str:
    """What was drawn, in per cent of the samples, by source and by tumour type."""
    total = max(1, sum(drawn.values()))
    by_source, by_type = Counter(), Counter()
    for case, count in drawn.items():
        by_source[sources[case]] += count
        by_type.update(dict.fromkeys(types[case] or [NO_TUMOR], count))
    shown = (
        ", ".join(f"{name} {100 * count / total:.0f} %" for name, count in sorted(counter.items()))
        for counter in (by_source, by_type)
    )
    return "Samples drawn: from {}; with {}".format(*shown)
