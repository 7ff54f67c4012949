"""Anatomical prompts: the encoder against loops, and what the network makes of host-organ maps."""

import itertools
import shutil

import pytest
import torch
from torch.testing import assert_close

from nnunetv2_mastpro.config import HostValue
from nnunetv2_mastpro.network.anatomy import GUIDANCE, AnatomyEncoder, SmallEncoder

CLASSES = {"liver": False, "liver_tumor": True, "kidney_tumor": True, "sarcoma": True}
HOSTS = (  # the liver hosts two classes, the kidney has two values, the sarcoma lives anywhere
    HostValue(value=1, channel=0, structures=("liver",), classes=(0, 1)),
    HostValue(value=2, channel=1, structures=("kidney_left",), classes=(2,)),
    HostValue(value=4, channel=3, structures=("kidney_right",), classes=(2,)),
)
TABLE = torch.tensor([[1, 0, 0, 0], [1, 0, 0, 0], [0, 1, 0, 1], [0, 0, 0, 0]])
SIZE = {2: (16, 24), 3: (4, 16, 16)}
LIVER, KIDNEY, SARCOMA = [0, 1], 2, 3


@pytest.fixture
def make_encoder(randomize):
    def make(axes=3, dropout=0.0) -> AnatomyEncoder:
        torch.manual_seed(0)
        encode = SmallEncoder(axes=axes, features=3)
        return randomize(AnatomyEncoder(table=TABLE, encode=encode, dim=8, heads=2, dropout=dropout))

    return make


@pytest.fixture
def make_organs():
    """`make_organs(liver=..., kidney_right=...)`: one-hot channels of samples, each a box given as slices or None."""

    def make(axes=3, **boxes):
        channels = {"liver": 0, "kidney_left": 1, "kidney_right": 3}
        organs = torch.zeros(len(next(iter(boxes.values()))), 4, *SIZE[axes])
        for name, per_sample in boxes.items():
            for sample, box in enumerate(per_sample):
                if box is not None:
                    organs[(sample, channels[name], *box)] = 1
        return organs

    return make


@pytest.fixture
def make_anatomical(make_planned, make_network, randomize):
    def make(axes=3, *, std=0.1, **options):
        values = {"classes": CLASSES, "hosts": HOSTS, "organ_channels": 4, **options}
        return randomize(make_network(make_planned("PlainConvUNet", axes), **values), std)

    return make


def box(*ranges):
    return tuple(slice(*r) for r in ranges)


LEFT, WHOLE = box((0, 2), (0, 8), (0, 8)), box((0, 4), (0, 16), (0, 16))


@pytest.mark.parametrize("axes", [2, 3])
def test_guidance_weighs_what_lies_outside_the_host(make_encoder, make_organs, axes):
    place = box((3, 9), (5, 20)) if axes == 2 else box((1, 3), (3, 9), (5, 14))
    organs = make_organs(axes, liver=[place], kidney_left=[box(*[(0, 2)] * axes)])
    grid = (2, 3) if axes == 2 else (2, 2, 4)
    encoder = make_encoder(axes)
    found = encoder(organs, torch.Size(grid)).guidance
    step = [size // cells for size, cells in zip(SIZE[axes], grid, strict=True)]
    for number, cell in enumerate(itertools.product(*map(range, grid))):
        window = tuple(slice(c * s, (c + 1) * s) for c, s in zip(cell, step, strict=True))
        for class_index, row in enumerate(TABLE):
            share = sum(organs[(0, channel, *window)].mean() for channel in range(4) if row[channel])
            outside = 1 - share if row.any() else 0  # where there is no host nothing is known
            assert_close(found[0, :, class_index, number], -encoder.strength * outside)


def test_guidance_is_zero_where_nothing_is_known(make_encoder, make_organs):
    guidance = make_encoder()(make_organs(liver=[None]), torch.Size((2, 2, 2))).guidance
    assert_close(guidance, torch.zeros_like(guidance))


def test_guidance_starts_strong():
    encoder = AnatomyEncoder(table=TABLE, encode=SmallEncoder(axes=2, features=3), dim=8, heads=2, dropout=0)
    assert_close(encoder.strength, torch.full((2,), GUIDANCE))


def test_find_tells_present_absent_and_unknown(make_encoder, make_organs):
    organs = make_organs(liver=[LEFT, None, None], kidney_right=[None, LEFT, None])
    present, known = make_encoder().find(organs)
    assert present.tolist() == [[True, True, False, False], [False, False, True, False], [False] * 4]
    assert known.tolist() == [[True, True, True, False], [True, True, True, False], [False] * 4]


def test_what_is_known_does_not_depend_on_the_classes_asked_for(make_encoder, make_organs):
    """A kidney in the patch tells that the liver is not, also where liver tumours alone are looked for."""
    organs = make_organs(liver=[None, None], kidney_right=[LEFT, None])
    present, known = make_encoder().find(organs, [0, 1])
    assert present.tolist() == [[False, False], [False, False]]
    assert known.tolist() == [[True, True], [False, False]]


def test_the_host_of_an_added_type_counts_for_that_type_alone(make_organs):
    encoder = AnatomyEncoder(
        table=TABLE, encode=SmallEncoder(axes=3, features=3), dim=8, heads=2, dropout=0, added=[KIDNEY]
    )
    organs = make_organs(kidney_right=[LEFT])
    assert encoder.find(organs, [0, 1])[1].tolist() == [[False, False]]
    assert encoder.find(organs, [0, KIDNEY])[1].tolist() == [[True, True]]


def test_unknown_and_absent_have_tokens_of_their_own(make_encoder, make_organs):
    encoder = make_encoder()
    tokens = encoder(make_organs(liver=[LEFT, None], kidney_left=[None, None]), torch.Size((2, 2, 2))).tokens
    assert_close(tokens[1], encoder.unknown.expand(4, -1))
    assert_close(tokens[0, SARCOMA], encoder.unknown)
    assert not tokens[0, KIDNEY].allclose(encoder.unknown)
    assert not tokens[0, KIDNEY].allclose(tokens[0, 0])


def test_tokens_follow_the_place_of_the_organ(make_encoder, make_organs):
    encoder = make_encoder()
    tokens = encoder(make_organs(liver=[LEFT, box((0, 2), (8, 16), (0, 8))]), torch.Size((2, 2, 2))).tokens
    assert not tokens[0, 0].allclose(tokens[1, 0], atol=1e-3)
    assert_close(tokens[:, 0], tokens[:, 1])  # two classes of one host


def test_right_and_left_are_one_host(make_encoder, make_organs):
    """Mirroring turns a left kidney's place into a right one's; the class is told the same."""
    left, right = make_organs(kidney_left=[LEFT]), make_organs(kidney_right=[LEFT])
    encoder = make_encoder()
    for one, other in zip(encoder(left, torch.Size((2, 2, 2))), encoder(right, torch.Size((2, 2, 2))), strict=True):
        assert_close(one, other)


@pytest.mark.parametrize("dropout", [0.0, 0.3, 1.0])
def test_dropout_empties_whole_samples_in_training_only(make_encoder, dropout):
    torch.manual_seed(5)
    organs = torch.ones(2000, 4, 2, 2, 2)
    encoder = make_encoder(dropout=dropout)
    kept = encoder.train().drop(organs).flatten(1)
    assert ((kept.sum(1) == 0) | (kept.sum(1) == 32)).all()
    assert abs((kept.sum(1) == 0).float().mean() - dropout) < 0.05
    assert encoder.eval().drop(organs) is organs


@pytest.mark.parametrize("axes", [2, 3])
def test_the_backbone_never_sees_the_organs(make_anatomical, make_image, make_organs, axes):
    network = make_anatomical(axes).eval()
    seen = []
    network.backbone.encoder.register_forward_pre_hook(lambda module, inputs: seen.append(inputs))
    network.backbone.encoder.stages[0].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    image, organs = make_image(axes), torch.rand(2, 4, *SIZE[axes])
    network(torch.cat([image, organs], 1))
    assert_close(seen[-1], image, rtol=0, atol=0)


@pytest.mark.parametrize("axes", [2, 3])
def test_maps_change_the_output_and_empty_ones_are_finite(make_anatomical, make_image, axes):
    network, image = make_anatomical(axes, std=0.3).eval(), make_image(axes)
    empty, filled = torch.zeros(2, 4, *SIZE[axes]), torch.zeros(2, 4, *SIZE[axes])
    filled[:, 0, :2] = 1
    outputs = [network(torch.cat([image, organs], 1))[0] for organs in (empty, filled)]
    assert all(out.isfinite().all() for out in outputs)
    assert not outputs[0].allclose(outputs[1], atol=1e-3)


def test_evaluation_selects_types_whose_host_is_in_the_patch(make_anatomical, make_image, make_organs):
    network = make_anatomical().eval()
    organs = make_organs(liver=[LEFT, None, None], kidney_left=[None, LEFT, None])
    selected = network.select_tasks(make_image(3, samples=3), organs)
    assert selected.tolist() == [[1, 0, 1], [0, 1, 1], [1, 1, 1]]


def test_the_forward_pass_uses_what_the_maps_select(make_anatomical, make_image, make_organs):
    network, seen = make_anatomical().eval(), []
    for experts in network.experts.values():
        experts.register_forward_pre_hook(lambda _, given: seen.append(given[1].tolist()))
    tumors = [LIVER[1], KIDNEY, SARCOMA]
    network.fusion.register_forward_pre_hook(lambda _, given: seen.append(given[2][:, tumors].tolist()))
    network(torch.cat([make_image(3, samples=2), make_organs(liver=[LEFT, None], kidney_left=[None, LEFT])], 1))
    assert len(seen) > 2
    assert seen == [[[1, 0, 1], [0, 1, 1]]] * len(seen)


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_training_draws_hosted_types_or_all(make_anatomical, make_organs, share):
    torch.manual_seed(1)
    network = make_anatomical(host_task_share=share).train()
    organs = make_organs(liver=[LEFT]).expand(2000, -1, -1, -1, -1)
    selected = network.select_tasks(organs[:, :1], organs)
    rows = {tuple(row) for row in selected.tolist()}
    assert rows == {1.0: {(1, 0, 1)}, 0.0: {(1, 1, 1)}}.get(share, {(1, 0, 1), (1, 1, 1)})
    assert abs((selected[:, 1] == 0).float().mean() - share) < 0.05


def test_training_step_reaches_every_parameter_of_the_encoder(make_anatomical, make_image, make_organs):
    network = make_anatomical().train()
    organs = make_organs(liver=[LEFT, None])  # the second sample is unknown
    network(torch.cat([make_image(3), organs], 1)).logits[0].square().sum().backward()
    for name, parameter in network.anatomy.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_it_compiles_without_graph_breaks(make_anatomical, make_image, make_organs):
    network = make_anatomical(anatomy_dropout=0.5).train()
    batch = torch.cat([make_image(3), make_organs(liver=[LEFT, None])], 1)
    torch.manual_seed(3)
    expected = network(batch).logits[0]
    torch.manual_seed(3)
    found = torch.compile(network, fullgraph=True, backend="eager")(batch).logits[0]
    assert_close(found, expected)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("c++"), reason="inductor needs a C++ compiler on a CPU: apt install g++")
def test_the_compiler_that_a_gpu_gets_makes_the_same_network(
    make_anatomical, make_image, make_organs, tmp_path, monkeypatch
):
    """Inductor; nothing is drawn."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    network, tasks = make_anatomical(std=0.3).train(), torch.tensor([[1.0, 0, 1], [0, 1, 1]])
    batch = torch.cat([make_image(3), make_organs(liver=[LEFT, None])], 1)
    torch._dynamo.reset()
    assert_close(torch.compile(network, fullgraph=True)(batch, tasks), network(batch, tasks), rtol=1e-3, atol=1e-3)


def test_bfloat16_autocast_is_finite(make_anatomical, make_image, make_organs):
    network = make_anatomical().train()
    with torch.autocast("cpu", torch.bfloat16):
        out = network(torch.cat([make_image(3), make_organs(liver=[LEFT, None])], 1))
    assert all(stage.isfinite().all() for stage in out.logits)


@pytest.mark.parametrize("has_background", [True, False])
def test_skipping_gives_background_in_a_tensor_of_its_own(make_anatomical, make_image, has_background):
    network = make_anatomical(deep_supervision=False, has_background=has_background).eval()
    image, organs = make_image(3), torch.zeros(2, 4, *SIZE[3])
    batch = torch.cat([image, organs], 1)
    ran = []
    network.backbone.encoder.stages[0].register_forward_hook(lambda *_: ran.append(1))
    normal = network(batch)
    network.skip_empty = True
    skipped, again = network(batch), network(batch)
    assert len(ran) == 1
    assert skipped.shape == normal.shape
    assert skipped.data_ptr() != again.data_ptr()
    assert skipped.abs().max() <= 10
    assert (skipped.argmax(1) == 0).all() if has_background else (skipped.sigmoid() < 0.01).all()


def test_skipping_runs_where_any_sample_has_a_host(make_anatomical, make_image, make_organs):
    network = make_anatomical(deep_supervision=False).eval()
    batch = torch.cat([make_image(3), make_organs(liver=[None, LEFT])], 1)
    normal = network(batch)
    network.skip_empty = True
    assert_close(network(batch), normal, rtol=0, atol=0)


def test_skipping_never_touches_training(make_anatomical, make_image):
    network = make_anatomical().train()
    network.skip_empty = True
    out = network(torch.cat([make_image(3), torch.zeros(2, 4, *SIZE[3])], 1))
    assert out.logits[0].requires_grad


@pytest.mark.parametrize("has_background", [True, False])
def test_a_type_that_is_left_out_never_wins(make_anatomical, make_image, make_organs, has_background):
    network = make_anatomical(deep_supervision=False, has_background=has_background, std=0.5).eval()
    batch = torch.cat([make_image(3), make_organs(liver=[LEFT, None])], 1)
    whole = network(batch)
    network.left_out = [KIDNEY, SARCOMA]
    narrowed = network(batch)
    first = int(has_background)
    assert narrowed.shape == whole.shape
    outputs = [first + KIDNEY, first + SARCOMA]
    kept = [index for index in range(whole.shape[1]) if index not in outputs]
    if has_background:
        assert (whole.argmax(1) > 2).any()  # they would have won somewhere
        assert (narrowed[:, outputs] < narrowed[:, kept].amin(1, keepdim=True) - 9).all()
    else:
        assert (narrowed[:, outputs] == -10).all()
    assert narrowed.isfinite().all()
