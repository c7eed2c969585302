"""Every field of every format of weights changed at random: a right model comes out, or one sentence.

`make test` tries some changes of each format; DAMAGE=1000 tries as many, as `python tests/test_damage.py` does with
memory held under 2 GB.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import damaged
import damaged_mat
from alexnet.base.errors import AlexNetError
from alexnet.weights import formats, state
from alexnet.weights.classifier import built
from damaged import changed, good, safetensors_parts, slim

FORMATS = {**damaged.FORMATS, "matconvnet": damaged_mat.matconvnet}
TRIES = int(os.environ.get("DAMAGE", "25"))
MEMORY = 2 << 30


@pytest.fixture(scope="module", autouse=True)
def thin():
    with pytest.MonkeyPatch.context() as patch:
        slim(patch.setitem)
        yield


def outcome(file: Path) -> str:
    """ "right" where a model is read that answers, else the one sentence; anything else is raised."""
    try:
        found = formats.read(file)
        with torch.no_grad():
            model = built(found).model
            answer = model(torch.zeros(1, found.preprocess.channels, model.input, model.input))
    except AlexNetError as error:
        sentence = str(error)
        assert "\n" not in sentence.strip(), sentence
        assert len(sentence) < 1500, sentence
        return sentence
    assert torch.isfinite(answer).all() or answer.shape[1] == len(found.classes)
    return "right"


@pytest.mark.parametrize("name", FORMATS)
def test_a_changed_file_is_a_model_or_one_sentence(name, tmp_path_factory, caplog):
    file = tmp_path_factory.mktemp("damage") / "file"
    seen = {"right": 0, "sentence": 0}

    @settings(
        max_examples=TRIES, deadline=None, database=None, derandomize=TRIES <= 100,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(st.data())
    def tried(data) -> None:
        file.write_bytes(FORMATS[name](data))
        seen["right" if outcome(file) == "right" else "sentence"] += 1

    tried()
    assert seen["sentence"]


HEADERS = {
    ("preprocess", "stored"): [0, -1, 10**9, 20, True, 32.0, "32", None],
    ("preprocess", "input"): [0, 33, 10**9, False],
    ("preprocess", "scale"): [[], [1.0] * 5, [0.0], [float("nan")], [1e-30], ["a"], None, {}],
    ("preprocess", "order"): ["", "BGR", None, 5],
    ("preprocess", "square"): ["round", 5, []],
    ("mean", "shape"): [[3], [-3, 1, 1], [3, 10**9, 10**9], ["a"], None],
    ("mean", "float32"): ["", "AAAA", "é", 5],
    ("classes",): [[], ["a"], [*"abcd", 5], "abcde", {"a": 1}],
    ("variant",): ["", "none", 5, [], "x" * 5000],
    ("changes",): [{"dropout": 2}, {"none": 1}, [], {"activation": []}, {"ties": {}}],
    ("naming",): ["none", 5, []],
    ("version",): [0, 99, "2", True],
}  # fmt: skip


@pytest.mark.parametrize(("place", "value"), [(place, x) for place, values in HEADERS.items() for x in values])
def test_headers_with_impossible_facts_are_refused(tmp_path, place, value):
    header, body, facts = safetensors_parts()
    header = {**header, "__metadata__": {"alexnet": json.dumps(changed(facts, place, value))}}
    packed = json.dumps(header).encode()
    (tmp_path / "file").write_bytes(len(packed).to_bytes(8, "little") + packed + body)
    assert outcome(tmp_path / "file") != "right"


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(("outputs", "words"), [(10**9, "1,000,000,000 outputs"), (10**6, "of which 1 are stored")])
def test_a_few_bytes_cannot_expand_into_much_memory(tmp_path, outputs, words, zipped):
    tensors = {state.KEYS[key]: value for key, value in good("alexnet_owt").tensors.items()}
    tensors["classifier.6.bias"] = torch.zeros(1).expand(outputs)
    tensors["classifier.6.weight"] = torch.zeros(1, 1).expand(outputs, 24)
    torch.save(tensors, tmp_path / "file", _use_new_zipfile_serialization=zipped)
    assert words in outcome(tmp_path / "file")


def main() -> int:
    """Each format by itself, a thousand changes, with memory held under 2 GB over what Python and torch take."""
    tries = os.environ.get("DAMAGE", "1000")
    status = 0
    for name in FORMATS:
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-k", f"{name} and changed",
                   f"{__file__}::test_a_changed_file_is_a_model_or_one_sentence[{name}]"]  # fmt: skip
        command = [word for word in command if not word.startswith("-k") and word != f"{name} and changed"]
        done = subprocess.run(
            command, env={**os.environ, "DAMAGE": tries, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY)), check=False,
        )  # fmt: skip
        print(name, "right or one sentence" if not done.returncode else done.stdout[-3000:], flush=True)
        status |= done.returncode
    return status


if __name__ == "__main__":
    sys.exit(main())
