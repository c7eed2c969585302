"""Features against a written-out pass in float64, in every format, and after a killed process."""

from __future__ import annotations

import io
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.numpy import load_file
from torch import nn

import alexnet as package
from alexnet.base.errors import AlexNetError
from alexnet.inference import feature_folder
from conftest import coloured

pytestmark = pytest.mark.device


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Ten pictures, of which the third and the eighth cannot be read."""
    folder = tmp_path_factory.mktemp("pictures")
    for n in range(10):
        coloured(("red", "green", "blue")[n % 3], 500 + n).save(folder / f"{n}.png")
    for n in (2, 7):
        (folder / f"{n}.png").write_bytes(b"broken")
    return folder


def good(folder) -> list[str]:
    return [str(folder / f"{n}.png") for n in range(10) if n not in (2, 7)]


def by_hand(classifier, path) -> dict[str, np.ndarray]:
    """Every layer's output of one picture, the layers called one after another in float64."""
    x = classifier.preprocess(path)[None].double()
    found = {}
    with torch.no_grad():
        for name, layer in classifier.model.named_layers():
            x = layer.double()(x)
            layer.float()
            found[name] = x[0].numpy()
    return found


def test_every_layer_in_one_pass_is_that_of_a_pass_by_hand(tiny_run, pictures):
    one = package.load(tiny_run)
    layers = [record.name for record in one.model.variant.layers]
    got = list(package.features(one, str(pictures), layers, batch_size=4))
    assert [g.file for g in got] == [str(pictures / f"{n}.png") for n in range(10)]
    assert [g.error is None for g in got] == [n not in (2, 7) for n in range(10)]
    for picture in (g for g in got if g.error is None):
        expected = by_hand(one, picture.file)
        assert list(picture.values) == layers
        for name in layers:
            assert picture.values[name].dtype == np.float32
            assert picture.values[name].shape == expected[name].shape
            np.testing.assert_allclose(picture.values[name], expected[name], rtol=1e-3, atol=1e-4, err_msg=name)
    assert (got[0].values["fc7"] < 0).any()
    np.testing.assert_array_equal(got[0].values["relu7"], got[0].values["fc7"].clip(0))


def test_a_picture_has_the_same_features_to_the_bit_whatever_is_asked_with_it(tiny_run, pictures):
    one = package.load(tiny_run)
    layers = [record.name for record in one.model.variant.layers]
    together = list(package.features(one, good(pictures), layers))
    for batch_size in (1, 3, 7):
        asked = package.features(one, good(pictures), layers, batch_size=batch_size)
        for got, expected in zip(asked, together, strict=True):
            for name in layers:
                assert (got.values[name] == expected.values[name]).all(), (batch_size, name)


def test_layers_that_work_in_place_change_no_feature(tiny_run, pictures):
    one = package.load(tiny_run)
    plain = next(one.features(pictures / "0.png", ["conv5", "fc7"])).values
    for layer in one.model.children():
        if isinstance(layer, nn.ReLU):
            layer.inplace = True
    for name, values in next(one.features(pictures / "0.png", ["conv5", "fc7"])).values.items():
        np.testing.assert_array_equal(values, plain[name])


@pytest.mark.parametrize(("pool", "reduce"), [("mean", np.mean), ("max", np.max)])
def test_pooling_is_that_of_numpy_over_positions(tiny_run, pictures, pool, reduce):
    one = package.load(tiny_run)
    whole = next(one.features(pictures / "0.png", ["conv5", "fc7"])).values
    pooled = next(one.features(pictures / "0.png", ["conv5", "fc7"], pool)).values
    np.testing.assert_allclose(
        pooled["conv5"], reduce(whole["conv5"].astype(np.float64), axis=(1, 2)), rtol=1e-5, atol=1e-6
    )
    np.testing.assert_array_equal(pooled["fc7"], whole["fc7"])


def test_features_come_while_an_endless_stream_is_read(tiny_run):
    endless = (coloured("red", n) for n in itertools.count())
    some = list(itertools.islice(package.features(tiny_run, endless, batch_size=4), 9))
    assert [s.file for s in some] == [f"picture {n}" for n in range(9)]


def test_every_format_holds_the_same_rows_in_the_order_of_the_pictures(alexnet, tiny_run, pictures, tmp_path):
    h5py = pytest.importorskip("h5py")

    one = package.load(tiny_run)
    expected = [f.values for f in one.features(str(pictures), ["fc7", "conv5"], batch_size=4) if f.error is None]
    words = ["features", tiny_run, pictures, "--batch-size", "4"]
    both = ["--layer", "fc7", "--layer", "conv5"]
    for name in ("f.parquet", "f.h5", "f.safetensors"):
        (tmp_path / "f.filenames.txt").unlink(missing_ok=True)
        status, out, err = alexnet(*words, *both, "--output", tmp_path / name, "--json")
        facts = json.loads(out.splitlines()[-1])
        assert status == 1  # two pictures cannot be read
        assert err.count("not a picture") == 2
        assert (facts["pictures"], facts["layers"]) == (8, {"fc7": [1024], "conv5": [256, 7, 7]})
    assert alexnet(*words, "--layer", "conv5", "--output", tmp_path / "g.npy")[0] == 1

    table = pq.read_table(tmp_path / "f.parquet")
    assert table.column_names == ["filename", "fc7", "conv5"]
    assert json.loads(table.schema.field("conv5").metadata[b"shape"]) == [256, 7, 7]
    with h5py.File(tmp_path / "f.h5") as file:
        hdf5 = {name: file[name][()] for name in ("fc7", "conv5")}
        names = [name.decode() for name in file["filename"][()]]
    tensors = load_file(tmp_path / "f.safetensors")
    array = np.load(tmp_path / "g.npy", mmap_mode="r")
    beside = [(tmp_path / f"{name}.filenames.txt").read_text().splitlines() for name in "fg"]
    for found in (table["filename"].to_pylist(), names, *beside):
        assert found == good(pictures)
    for row, values in enumerate(expected):
        for layer in ("fc7", "conv5"):
            flat = np.array(table[layer][row].as_py(), np.float32).reshape(values[layer].shape)
            for rows in (flat, hdf5[layer][row], tensors[layer][row]):
                np.testing.assert_array_equal(rows, values[layer])
        np.testing.assert_array_equal(array[row], values["conv5"])
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.skipif(os.sep == "\\", reason="a backslash parts folders there")
def test_no_two_files_have_one_name_beside_their_features(alexnet, tiny_run, tmp_path):
    odd = ["a\nb.png", "a\\nb.png", "a\\\nb.png", "a\\\\nb.png", "ä b.png"]
    (tmp_path / "odd").mkdir()
    for name in odd:
        coloured("red", 0).save(tmp_path / "odd" / name)
    assert alexnet("features", tiny_run, tmp_path / "odd", "--output", tmp_path / "f.npy")[0] == 0
    lines = (tmp_path / "f.filenames.txt").read_text("utf-8").splitlines()
    plain = [os.path.basename(line).replace("ä", "\\xe4").encode().decode("unicode_escape") for line in lines]
    assert sorted(plain) == sorted(odd)


def test_a_killed_run_goes_on_to_the_same_bytes(alexnet, tiny_run, pictures, tmp_path, monkeypatch):
    """kill -9 after two whole batches were noted, a third being begun; names come through a pipe."""
    names = [f"{pictures / f'{n % 10}.png'}\n".encode() for n in range(23)]

    def here(output, *more):
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"".join(names))))
        return alexnet("features", tiny_run, "-", "--batch-size", "4", "--output", output, *more)

    words = [sys.executable, "-m", "alexnet", "features", tiny_run, "-", "--batch-size", "4"]
    words += ["--output", tmp_path / "cut.npy"]
    killed = subprocess.Popen(list(map(str, words)), stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)
    killed.stdin.write(b"".join(names[:18]))
    killed.stdin.flush()
    journal, until = tmp_path / "cut.npy.part" / feature_folder.JOURNAL, time.monotonic() + 120
    while time.monotonic() < until and not (journal.exists() and journal.read_bytes().count(b"\n") >= 8):
        time.sleep(0.02)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    killed.stdin.close()
    with open(journal, "a") as file:
        file.write('["half a li')
    with open(tmp_path / "cut.npy.part" / "fc7.npy", "ab") as file:
        file.write(b"half a row")
    before = journal.read_bytes().splitlines()[:8]
    assert [json.loads(line)[0] for line in before] == [name.decode().strip() for name in names[:8]]
    assert here(tmp_path / "cut.npy", "--resume")[2].count("not a picture") == 5
    assert here(tmp_path / "whole.npy")[2].count("not a picture") == 5
    rows, again = np.load(tmp_path / "whole.npy"), np.load(tmp_path / "cut.npy")
    assert rows.shape == again.shape == (18, 1024)
    np.testing.assert_allclose(again, rows, rtol=1e-4, atol=1e-5)  # the processes' threads may differ
    np.testing.assert_array_equal(again[7:], rows[7:])
    assert (tmp_path / "cut.filenames.txt").read_bytes() == (tmp_path / "whole.filenames.txt").read_bytes()


def interrupted(monkeypatch, after: int):
    """Make the gathering stop with Ctrl-C after some batches."""
    whole = feature_folder.feature_batches

    def some(*arguments, **options):
        yield from itertools.islice(whole(*arguments, **options), after)
        raise KeyboardInterrupt

    monkeypatch.setattr(feature_folder, "feature_batches", some)
    return whole


def test_only_the_same_model_pictures_and_batches_go_on(alexnet, refused, tiny_run, pictures, tmp_path, monkeypatch):
    pytest.importorskip("h5py")
    words = ["features", tiny_run, pictures, "--batch-size", "4", "--output", tmp_path / "f.h5"]
    whole = interrupted(monkeypatch, 1)
    status, _, err = alexnet(*words)
    assert status == 130
    assert f"stopped after 4 pictures, kept in {tmp_path / 'f.h5.part'}: go on with --resume" in err
    monkeypatch.setattr(feature_folder, "feature_batches", whole)
    assert "add --resume to go on, or delete it" in refused(*words)
    assert "was begun with batch size 4, not 5" in refused(*words, "--batch-size", "5", "--resume")
    assert "was begun with layers" in refused(*words, "--layer", "fc6", "--resume")
    others = [pictures / "0.png", pictures / "3.png", *words[3:]]
    message = refused("features", tiny_run, *others, "--resume")
    assert "picture 1 was" in message
    assert "3.png" in message
    assert "now it is missing" in refused("features", tiny_run, pictures / "0.png", *words[3:], "--resume")
    one = package.load(tiny_run)
    one.model.fc8.bias.data[0] += 1
    with pytest.raises(AlexNetError, match="was begun with model"):
        feature_folder.gather(
            one, feature_folder.Sources([pictures]), ["fc7"], tmp_path / "f.h5.part", None, 4, resume=True
        )
    assert alexnet(*words, "--resume")[0] == 1
    assert (tmp_path / "f.h5").exists()


def test_rows_that_a_power_cut_took_from_a_file_are_made_again(alexnet, tiny_run, pictures, tmp_path, monkeypatch):
    words = ["features", tiny_run, pictures, "--batch-size", "2", "--output", tmp_path / "f.npy"]
    whole = interrupted(monkeypatch, 4)
    alexnet(*words)
    file = tmp_path / "f.npy.part" / "fc7.npy"
    os.truncate(file, file.stat().st_size - 4)
    monkeypatch.setattr(feature_folder, "feature_batches", whole)
    assert alexnet(*words, "--resume")[0] == 1
    expected = [f.values["fc7"] for f in package.features(tiny_run, pictures, batch_size=2) if not f.error]
    np.testing.assert_array_equal(np.load(tmp_path / "f.npy"), np.stack(expected))


@pytest.mark.parametrize("ending", [".npy", ".safetensors"])
def test_what_ended_between_the_names_and_the_features_goes_on(alexnet, tiny_run, tmp_path, monkeypatch, ending):
    coloured("red", 1).save(tmp_path / "1.png")
    output, real = tmp_path / f"f{ending}", os.replace

    def ended(part, path):
        if path == output:
            raise KeyboardInterrupt
        real(part, path)

    words = ["features", tiny_run, tmp_path / "1.png", "--output", output]
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", ended)
        assert alexnet(*words)[0] == 130
    assert (tmp_path / "f.filenames.txt").exists()
    assert "exists already" in alexnet(*words)[2]
    assert alexnet(*words, "--resume")[0] == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1.png", "f.filenames.txt", output.name]


def test_features_refusals(refused, tiny_run, pictures, tmp_path, monkeypatch):
    words = ["features", tiny_run, pictures, "--output"]
    message = refused(*words, tmp_path / "f.npy", "--layer", "fc9")
    assert "alexnet32 has no layer 'fc9'; the nearest are fc" in message
    message = refused(*words, tmp_path / "f.npy", "--layer", "fc6,fc7")
    assert "name each by itself: --layer A --layer B" in message
    message = refused(*words, tmp_path / "f.npy", "--layer", "fc6", "--layer", "fc7")
    assert "holds one layer, 2 were asked for; give a name that ends in .parquet, .h5, .safetensors" in message
    assert "it writes .npy, .parquet, .h5 or .safetensors" in refused(*words, tmp_path / "f.mat")
    assert "there is no folder" in refused(*words, tmp_path / "none" / "f.npy")
    for name in ("f.filenames.txt", "f.npy"):
        (tmp_path / name).write_text("mine")
        assert f"{name} exists already" in refused(*words, tmp_path / "f.npy")
        (tmp_path / name).unlink()
    (tmp_path / "bad.png").write_bytes(b"bad")
    message = refused("features", tiny_run, tmp_path / "bad.png", "--output", tmp_path / "f.npy")
    assert "none of 1 picture can be read" in message
    with pytest.raises(AlexNetError, match="pool was given 'avg'; it takes mean or max, or None"):
        package.features(tiny_run, pictures, pool="avg")
    monkeypatch.setitem(sys.modules, "h5py", None)
    assert "pip install '.[hdf5]'" in refused(*words, tmp_path / "f.h5")
    assert [p.name for p in tmp_path.iterdir()] == ["bad.png"]
