"""What the tutorial begins with."""

import pytest
import SimpleITK as sitk

from nnunetv2_mastpro import cli


def test_scans_for_the_tutorial(tmp_path, capsys):
    assert cli.main(["demo", "--scans", "-o", str(tmp_path / "new")]) == 0
    found = {folder.name: sorted(path.name for path in folder.iterdir()) for folder in (tmp_path / "new").iterdir()}
    cases = [f"phantom_{seed:06d}.nii.gz" for seed in range(7)]
    known, unseen = cases[:5], cases[5:]
    assert found == {"scans": known, "masks": known, "unseen": unseen, "unseen_masks": unseen, "organs": cases}
    image, mask = (sitk.ReadImage(str(tmp_path / "new" / name / cases[0])) for name in ("scans", "masks"))
    assert (image.GetSize(), image.GetOrigin()) == (mask.GetSize(), mask.GetOrigin())
    assert set(sitk.GetArrayViewFromImage(mask).ravel().tolist()) == {0, 1}
    assert capsys.readouterr().out.count("wrote ") == 5
    assert cli.main(["demo", "--scans", "-o", str(tmp_path / "new")]) == 2
    assert "scans is there already; give -o another folder" in capsys.readouterr().err


@pytest.mark.parametrize("option", [["--with-baseline"], ["--seed", "1"]])
def test_scans_are_always_the_same(tmp_path, capsys, option):
    assert cli.main(["demo", "--scans", "-o", str(tmp_path / "new"), *option]) == 2
    assert "leave out --with-baseline and --seed" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
