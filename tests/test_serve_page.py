"""What the service shows: the page, a run that is followed, the description and the metrics."""

from __future__ import annotations

import io
import json
import re
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from alexnet.base.run_files import METRICS
from alexnet.data.layouts.registry import find_data
from alexnet.data.preprocess import Preprocess
from alexnet.inference.inside.heat import METHODS
from alexnet.networks.model import AlexNet
from alexnet.serving import gate
from alexnet.serving.examples import DIGITS, PHOTOGRAPHS
from alexnet.serving.limits import Limits
from alexnet.serving.models import Models, Served, opened
from alexnet.weights.classifier import Classifier
from narrow import narrow, redraw
from serving import STATIC, client, index_of, pictures
from tooled import DIFFERENT


@pytest.fixture(scope="module")
def index(tmp_path_factory, tiny_run, folders) -> Path:
    return index_of(tmp_path_factory, tiny_run, folders)


@pytest.fixture(scope="module")
def models(tiny_run, index) -> Models:
    return opened(["tiny", str(tiny_run)], [str(index)])


@pytest.fixture(scope="module")
def service(models, folders):
    with client(models, pictures=str(folders / "val"), data=str(folders), limits=Limits(200_000, 500_000)) as found:
        yield found


def test_a_run_is_followed_line_by_line_and_from_its_beginning_when_it_went_back(models, tmp_path):
    lines = [json.dumps({"kind": "step", "step": n, "epoch": n / 10, "loss": 1.0}) for n in range(30)]
    followed = Models([replace(models.all[0], run=tmp_path)])
    with client(followed) as service:

        def seen(after: int) -> tuple[list[int], int, bool]:
            found = service.get("/page/run", params={"after": after}).json()
            return [one["step"] for one in found["lines"]], found["next"], found["finished"]

        (tmp_path / METRICS).write_text("\n".join(lines[:10]) + '\n{"kind": "st')  # the last is being written
        assert seen(0) == (list(range(10)), 10, False)
        (tmp_path / METRICS).write_text("\n".join(lines[:12]) + "\n")
        assert seen(10) == ([10, 11], 12, False)
        (tmp_path / METRICS).write_text('{"kind": "epoch", "epoch": 1, "valid_loss": NaN}\n')
        (odd,) = json.loads(service.get("/page/run").text, parse_constant=pytest.fail)["lines"]
        assert odd["valid_loss"] is None
        (tmp_path / METRICS).write_text("\n".join(lines[:5]) + '\n{"kind": "final", "step": 5}\n')
        assert seen(12) == ([0, 1, 2, 3, 4, 5], 6, True)


def drawn_anew(name: str, channels: int) -> Classifier:
    """A narrow network of that plan with weights of its own."""
    variant = narrow(name)
    model = AlexNet(variant, 7, channels, variant.input)
    redraw(model)
    mean = torch.full((channels, 1, 1), 110.0)
    preprocess = Preprocess(variant.stored, variant.input, "RGB" if channels == 3 else "L", (64.0,), mean)
    return Classifier(model.eval(), preprocess, [f"class {n}" for n in range(7)])


def test_a_map_lies_over_the_middles_of_what_its_places_see():
    (picture,) = pictures(1)
    with client(Models([Served("one", drawn_anew("alexnet2012", 3))])) as service:
        field = service.post("/page/maps", params={"layer": "conv5"}, content=picture).json()["field"]
    side = narrow("alexnet2012").input
    middles = [side * (field["start"] + field["stride"] * (place + 0.5)) - 0.5 for place in (0, 4)]
    assert middles == pytest.approx([17, 81])  # of conv5's places, every 16 pixels


@pytest.mark.slow
@pytest.mark.parametrize(("name", "channels"), [("alexnet2012", 1), *((name, 3) for name in DIFFERENT)])
def test_every_network_is_shown_in_every_view(name, channels):
    classifier = drawn_anew(name, channels)
    (picture,) = pictures(1)
    with client(Models([Served("one", classifier), Served("other", classifier)])) as service:
        (one, _) = service.get("/page/models").json()["models"]
        drawn = service.get("/page/network.svg").text
        for layer in one["layers"]:
            assert f'data-layer="{layer["name"]}"' in drawn
            answer = service.post("/page/maps", params={"layer": layer["name"]}, content=picture)
            assert answer.status_code == 200, answer.text
            assert answer.json()["shape"][0] == layer["maps"]
            if layer["filters"]:
                assert service.get("/page/filters", params={"layer": layer["name"]}).status_code == 200
        for path in ("steps", "views", *(f"heat?method={one}" for one in METHODS), "compare?other=1"):
            answer = service.post(f"/page/{path}", content=picture)
            assert answer.status_code == 200, (path, answer.text)
        assert service.post("/page/where", content=picture).status_code in (200, 422)


# -- what takes long --------------------------------------------------------------------------------------------------

BATCHES = 3  # of what is looked at


@pytest.fixture(scope="module")
def many(tmp_path_factory, folders) -> Path:
    """Data of some batches: each picture of the small ones many times."""
    root = tmp_path_factory.mktemp("many")
    for split, times in (("train", 1), ("val", 1 + BATCHES * 64 // 15)):
        for file in (folders / split).rglob("*.png"):
            for n in range(times):
                link = root / split / file.parent.name / f"{n}-{file.name}"
                link.parent.mkdir(parents=True, exist_ok=True)
                link.hardlink_to(file)
    return root


class Held:
    """What computes a batch each time it is let, and counts them."""

    def __init__(self) -> None:
        self.batches, self.free = 0, threading.Semaphore(0)


@pytest.fixture
def held(monkeypatch) -> Iterator[Held]:
    found, normalise = Held(), Preprocess.normalise

    def waits(*given):
        found.batches += 1
        assert found.free.acquire(timeout=60)
        return normalise(*given)

    monkeypatch.setattr(Preprocess, "normalise", waits)
    yield found
    found.free.release(10_000)


LONG = ["/page/run/confusion", "/page/patches?layer=conv5&map=3"]


@pytest.mark.parametrize("path", LONG)
def test_what_is_not_computed_in_time_is_asked_for_again_until_it_is_there(held, many, tiny_run, path):
    with client([str(tiny_run)], pictures=str(many / "val"), data=str(many), limits=Limits(seconds=0.2)) as service:
        began = time.monotonic()
        first = service.get(path)
        assert time.monotonic() - began < 5
        assert (first.status_code, first.headers["retry-after"]) == (202, "1")
        assert "ask again" in first.json()["wait"]
        assert service.get(path).status_code == 202
        held.free.release(1000)
        while (answer := service.get(path)).status_code == 202:
            pass
        computed = held.batches
        assert computed > BATCHES  # once
        assert service.get(path).content == answer.content
        assert held.batches == computed
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("path", LONG)
def test_a_server_that_stops_computes_one_batch_more_at_most(held, many, tiny_run, path):
    with client([str(tiny_run)], pictures=str(many / "val"), data=str(many), limits=Limits(seconds=0.2)) as service:
        assert service.get(path).status_code == 202
        threading.Timer(0.5, held.free.release, [1000]).start()
        began = held.batches
    assert held.batches <= began + 1


def test_a_picture_that_takes_long_is_refused_in_time_and_holds_up_those_that_came_with_it_alone(held):
    (picture,) = pictures(1)
    with client(["tiny"], limits=Limits(seconds=0.2)) as service, ThreadPoolExecutor(9) as nine:
        asked = [nine.submit(service.post, "/page/maps", content=picture) for _ in range(9)]
        sentences = [one.result().json()["error"] for one in asked]
        assert {one.result().status_code for one in asked} == {503}
        assert sum("no answer within 0.2 s" in one for one in sentences) == 8
        assert sum("wait already" in one for one in sentences) == 1
        held.free.release(1000)
        while (answer := service.post("/page/maps", content=picture)).status_code == 503:
            pass
    assert answer.status_code == 200
    assert held.batches == 2  # the one that was begun, and the last


def test_an_error_of_what_takes_long_is_told_and_the_next_question_tries_anew(tiny_run, tmp_path):
    (tmp_path / "a.png").write_bytes(b"no picture")
    with client([str(tiny_run)], pictures=str(tmp_path)) as service:
        failed = service.get("/page/patches")
        assert (failed.status_code, "can be read" in failed.json()["error"]) == (422, True)
        (tmp_path / "a.png").write_bytes(pictures(1)[0])
        assert service.get("/page/patches").status_code == 200


# -- what programs and browsers are told ------------------------------------------------------------------------


@pytest.mark.slow
def test_the_pictures_to_begin_with_are_those_of_scikit_learn(service):
    from sklearn.datasets import load_sample_image

    digits = find_data("digits").whole
    for name, digit in DIGITS.items():
        found = Image.open(io.BytesIO(service.get("/page/examples", params={"name": name}).content))
        first = digits.read(int(np.flatnonzero(digits.labels == digit)[0]))
        np.testing.assert_array_equal(np.asarray(found), np.asarray(first))
    for name in PHOTOGRAPHS:
        found = Image.open(io.BytesIO(service.get("/page/examples", params={"name": name}).content))
        np.testing.assert_array_equal(np.asarray(found), load_sample_image(name))


def test_the_description_is_openapi_and_answers_are_as_it_says(service):
    validator = pytest.importorskip("openapi_spec_validator")
    jsonschema = pytest.importorskip("jsonschema")
    document = service.get("/openapi.json").json()
    validator.validate(document)
    (picture,) = pictures(1)
    for path in ("/predict", "/features", "/similar"):
        said = document["paths"][path]["post"]["responses"]
        answer = service.post(path, params={"model": "1"}, content=picture).json()
        jsonschema.validate(answer, said["200"]["content"]["application/json"]["schema"])
        jsonschema.validate(service.post(path, content=b"").json(), document["components"]["schemas"]["Refused"])


def test_metrics_count_requests_by_status_and_batches_by_size(models):
    prometheus = pytest.importorskip("prometheus_client.parser")
    (picture,) = pictures(1)
    with client(models) as service:
        for content in (picture, b"", picture):
            service.post("/predict", content=content)
        service.get("/some/other/path")
        families = list(prometheus.text_string_to_metric_families(service.get("/metrics").text))
    values = {(one.name, *sorted(one.labels.values())): one.value for family in families for one in family.samples}
    assert values["alexnet_requests_total", "/predict", "200"] == 2
    assert values["alexnet_requests_total", "/predict", "422"] == 1
    assert values["alexnet_requests_total", "404", "other"] == 1
    assert values["alexnet_batch_pictures_sum",] == 2
    assert values["alexnet_waiting_pictures",] == 0


def test_the_page_runs_its_own_scripts_alone_and_is_small(service):
    whole = 0
    for file in STATIC.iterdir():
        text = file.read_text("utf-8")
        whole += len(text.encode())
        others = set(re.findall(r"https?://[^\s\"'`$]+", text)) - {"http://www.w3.org/2000/svg"}
        assert not others, file
        assert not re.search(r"\son\w+=[\"']|style=[\"']|javascript:", text), file
        kind = {".html": "text/html", ".js": "javascript", ".css": "text/css", ".svg": "image/svg"}[file.suffix]
        path = f"/static/{file.name}" if file.suffix != ".html" else {"index": "/", "docs": "/docs"}[file.stem]
        answer = service.get(path)
        assert kind in answer.headers["content-type"]
        assert dict(gate.HEADERS)[b"content-security-policy"].decode() == answer.headers["content-security-policy"]
    assert whole < 300_000
    assert "unsafe" not in gate.POLICY


def test_every_script_address_and_element_that_the_page_names_is_there(service):
    scripts = {file.name: file.read_text("utf-8") for file in STATIC.glob("*.js")}
    pages = "".join(file.read_text("utf-8") for file in STATIC.glob("*.html"))
    for name, text in scripts.items():
        assert set(re.findall(r'from "\./([\w.]+)"', text)) <= set(scripts), name
        for one in re.findall(r'\$\("([\w-]+)"\)', text):
            assert f'id="{one}"' in pages, (name, one)
        for path in re.findall(r'(?:ask|request|blobUrl)\("(/[\w/.-]+)"', text):
            assert "nothing is at this address" not in service.get(f"{path}?model=none").text, (name, path)
    for path in re.findall(r'(?:src|href)="(/[^"]*)"', pages):
        assert service.get(path).status_code == 200
