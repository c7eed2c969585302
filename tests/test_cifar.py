"""CIFAR's archives are read as their pickles say, which are not run, and what can be wrong with them is named."""

from __future__ import annotations

import io
import pickle
import tarfile

import numpy as np
import pytest

from alexnet.data.layouts.registry import find_data
from archives import cifar10, refusal, write


@pytest.mark.parametrize("form", ["folder", "parent", "archive"])
def test_cifar_10s_archive_is_read_and_its_pickles_are_not_run(tmp_path, form):
    files, pictures, found = cifar10()
    bytes_of = {f"cifar-10-batches-py/{name}": pickle.dumps(batch, 2) for name, batch in files.items()}
    if form == "archive":
        root = tmp_path / "cifar-10-python.tar.gz"
        with tarfile.open(root, "w:gz") as archive:
            for name, contents in bytes_of.items():
                member = tarfile.TarInfo(name)
                member.size = len(contents)
                archive.addfile(member, io.BytesIO(contents))
    else:
        write(tmp_path, bytes_of)
        root = tmp_path / "cifar-10-batches-py" if form == "folder" else tmp_path
    data = find_data(root)
    assert data.classes == ["airplane", "automobile"]
    train, valid = data.split("train"), data.split("valid")
    assert train.labels.tolist() + valid.labels.tolist() == found
    got = [np.asarray(split.read(i)).transpose(2, 0, 1) for split in (train, valid) for i in range(len(split))]
    assert (np.stack(got) == pictures).all()
    assert train.name(7) == "7.png"


def test_cifar_100_has_its_fine_labels(tmp_path):
    data = np.zeros((2, 3072), np.uint8)
    batch = {"data": data, "fine_labels": [0, 1], "coarse_labels": [0, 0], "filenames": ["a", "b"]}
    meta = {"fine_label_names": ["apple", "bear"], "coarse_label_names": ["x"]}
    files = {"train": batch, "test": batch, "meta": meta}
    write(tmp_path / "cifar-100-python", {name: pickle.dumps(value, 2) for name, value in files.items()})
    found = find_data(tmp_path)
    assert (found.layout, found.classes) == ("CIFAR-100", ["apple", "bear"])
    assert found.split("train").labels.tolist() == [0, 1]


class Evil:
    def __reduce__(self):
        import os

        return os.system, ("false",)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"data": np.zeros((4, 3000), np.uint8)}, "no pictures of 3 x 32 x 32 bytes"),
        ({"data": np.zeros((3, 3072), np.uint8)}, "has 3 pictures and 4 labels"),
        ({"labels": [0, 1, 2, 0]}, "labels that are not 0 to 1"),
        ({"labels": Evil()}, "holds more than data (a call of posix.system)"),
    ],
)
def test_cifar_that_is_wrong_is_named(tmp_path, change, said):
    files, _, _ = cifar10()
    files["data_batch_3"] |= change
    write(tmp_path, {name: pickle.dumps(batch, 2) for name, batch in files.items()})
    text = refusal(tmp_path)
    assert "data_batch_3" in text
    assert said in text
