"""The command on a small model's folders, and changes of their files."""

import json

import SimpleITK as sitk

from nnunetv2_mastpro import cli


def arguments(folders, output, *more):
    return [
        "report",
        "-m",
        folders.model,
        "-i",
        folders.images,
        "-pred",
        folders.predictions,
        "-o",
        output,
        "-np",
        "1",
        *more,
    ]


def run(*given):
    return cli.main([str(one) for one in given])


def change(path, function):
    volume = sitk.ReadImage(path)
    sitk.WriteImage(function(volume), path)


def moved(volume):
    volume.SetOrigin([place + 5 for place in volume.GetOrigin()])
    return volume


def with_value_9(volume):
    volume[3, 3, 3] = 9
    return volume


def with_value_3(volume):
    volume[7, 11, 4] = 3
    return volume


def allow_ignoring(folders):
    path = folders.model / "dataset.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "labels": {**content["labels"], "ignore": 3}}))
