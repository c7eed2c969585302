"""What tells one network from another, so that nobody goes on with another's answers."""

from __future__ import annotations

import os
from collections import defaultdict
from copy import deepcopy
from pathlib import Path
from typing import cast

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from alexnet.base.errors import AlexNetError
from alexnet.data.layouts.registry import find_data
from alexnet.data.packs.writing import fingerprint as source_fingerprint
from alexnet.data.sources import Sources
from alexnet.engines.exported import Absent
from alexnet.inference.feature_folder import fingerprint, gather
from alexnet.networks.model import AlexNet
from alexnet.networks.variants import VARIANTS
from alexnet.weights.classifier import Classifier
from conftest import coloured, write_folders
from narrow_classifier import made


def test_variants_of_the_same_weights_are_told_apart_by_their_layers():
    """Weights of one value everywhere are equal wherever shapes are, as in the networks with a layer left out."""
    alike, told = defaultdict(set), {}
    for name in VARIANTS:
        one = deepcopy(made(name))
        with torch.no_grad():
            for tensor in one.model.state_dict().values():
                tensor.fill_(1)
        one.preprocess.mean.fill_(0)
        shapes = tuple((key, tuple(x.shape)) for key, x in one.model.state_dict().items())
        alike[shapes].add(repr(one.model.variant.layers))
        told[repr(one.model.variant.layers)] = fingerprint(one)
    assert max(map(len, alike.values())) > 1
    assert len(set(told.values())) == len(told)


@pytest.mark.parametrize("changed", ["net.xml", "net.bin"])
def test_exports_are_told_apart_by_their_files(tmp_path, changed):
    (tmp_path / "net.xml").write_bytes(b"<graph/>")
    (tmp_path / "net.bin").write_bytes(b"weights")
    preprocess = made("alexnet32").preprocess

    def asked() -> str:
        net = cast(AlexNet, Absent(tmp_path / "net.xml"))
        return fingerprint(Classifier(net, preprocess, ["a", "b"], exported="openvino"))

    before = asked()
    assert asked() == before
    (tmp_path / changed).write_bytes(b"others")
    assert asked() != before


def test_features_are_not_gone_on_with_from_another_folder_with_pictures_of_the_same_names(tmp_path, monkeypatch):
    part, one = tmp_path / "f.npy.part", made("alexnet32")
    for place in ("here", "there"):
        (tmp_path / place).mkdir()
        coloured("red", len(place)).save(tmp_path / place / "a.png")
    monkeypatch.chdir(tmp_path / "here")
    gather(one, Sources(["a.png"]), ["fc7"], part)
    gather(one, Sources(["a.png"]), ["fc7"], part, resume=True)
    monkeypatch.chdir(tmp_path / "there")
    with pytest.raises(
        AlexNetError, match=f"was begun with current folder {tmp_path / 'here'}, not {tmp_path / 'there'}; give"
    ):
        gather(one, Sources(["a.png"]), ["fc7"], part, resume=True)


def test_names_on_standard_input_are_of_the_folder_that_they_are_read_in(tmp_path, monkeypatch):
    found = []
    for place in ("here", "there"):
        Path(tmp_path / place).mkdir()
        monkeypatch.chdir(tmp_path / place)
        found.append(Sources(["-"]).folder())
        assert Sources([tmp_path / "a.png"]).folder() == ""
    assert found == [str(tmp_path / "here"), str(tmp_path / "there")]


@pytest.mark.parametrize("kind", ["a table", "parquet of paths", "class folders"])
def test_a_pack_is_not_gone_on_with_when_the_pictures_are_others(tmp_path, kind):
    """Under the same names, of the same length and time."""
    root = write_folders(tmp_path / "data", 2)
    files = sorted(root.rglob("*.png"))
    if kind == "a table":
        rows = "".join(f"{file.relative_to(root)},{file.parent.name}\n" for file in files)
        (root / "labels.csv").write_text("filename,label\n" + rows)
    elif kind == "parquet of paths":
        table = pa.table({"image": [str(file.relative_to(root)) for file in files], "label": [0, 0, 1, 1, 2, 2]})
        pq.write_table(table, root / "train.parquet")
    before = source_fingerprint(find_data(root))
    assert source_fingerprint(find_data(root)) == before
    for file in files:
        facts, old = file.stat(), file.read_bytes()
        file.write_bytes(old[:-20] + b"x" + old[-19:])
        os.utime(file, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert source_fingerprint(find_data(root)) != before
