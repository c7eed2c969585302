"""The service answers what the commands answer, refuses in sentences, and tells nothing of the machine it is on."""

from __future__ import annotations

import asyncio
import io
import json
import re
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
import pytest
from PIL import Image

import alexnet as package
from alexnet.cli import commands
from alexnet.data.pictures import reads_heif
from alexnet.engines.loading import attach
from alexnet.inference.similarity import build_index, similar
from alexnet.serving.batching import Batcher
from alexnet.serving.limits import Limits, Refused, check_pixels
from alexnet.serving.models import Models, Served, disagreement, opened
from conftest import coloured, encoded, needs
from serving import client, index_of, pictures


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


@pytest.mark.parametrize("engine", [None, "onnx", "openvino"])
@pytest.mark.parametrize("views", [1, 10])
def test_a_picture_in_any_batch_gets_the_answer_of_predict_alone_to_the_bit(models, engine, views):
    needs(*{None: (), "onnx": ("onnxruntime",), "openvino": ("openvino",)}[engine])
    one = models.all[1]
    served = Models([replace(one, classifier=attach(one.classifier, engine))])
    given = pictures(13)
    alone = [
        package.predict(served.all[0].classifier, [one], views=views)[0].as_json()["classes"]
        for one in (given[0], given[9], given[12])
    ]
    with client(served, batch_size=8, delay=0.05) as service, ThreadPoolExecutor(13) as many:
        asked = [many.submit(service.post, f"/predict?views={views}", content=one) for one in given]
        answers = [one.result().json()["results"][0]["classes"] for one in asked]
        sizes = dict(re.findall(r'alexnet_batch_pictures_bucket\{le="([\d.]+)"\} (\d+)', service.get("/metrics").text))
    assert [answers[0], answers[9], answers[12]] == alone
    assert int(sizes["8.0"]) > int(sizes["4.0"]), "no batch was full"
    assert disagreement(served.all[0], 8) == 0


def test_features_and_neighbours_are_those_of_the_commands(service, models, tiny_run, index):
    (picture,) = pictures(1)
    (of_command,) = package.features(models.all[0].classifier, [picture], ["conv5", "fc7"])
    found = service.post("/features?layer=conv5&layer=fc7", content=picture).json()["results"][0]["layers"]
    for layer, values in of_command.values.items():
        assert found[layer]["shape"] == list(values.shape)
        np.testing.assert_array_equal(np.float32(found[layer]["values"]), values.ravel())
    npy = service.post("/features?layer=conv5&format=npy&pool=max", content=picture)
    np.testing.assert_array_equal(np.load(io.BytesIO(npy.content)), of_command.values["conv5"].max((1, 2)))
    near = service.post("/similar?model=1&count=4&distance=cosine", content=picture).json()["results"][0]["neighbours"]
    (expected,) = similar(index, [picture], 4, "cosine", tiny_run)
    assert [one["file"] for one in near] == [Path(one.file).name for one in expected.neighbours]
    assert [one["distance"] for one in near] == pytest.approx([one.distance for one in expected.neighbours], rel=1e-6)


def test_an_index_made_anew_while_it_is_served_changes_no_answer(tiny_run, folders, tmp_path):
    pictures, asked = sorted(map(str, (folders / "train").rglob("*.png"))), (folders / "val/red/100.png").read_bytes()
    build_index(tiny_run, pictures, tmp_path / "index")
    with client(opened([str(tiny_run)], [str(tmp_path / "index")])) as served:
        before = served.post("/similar", content=asked).json()
        shutil.rmtree(tmp_path / "index")
        build_index(tiny_run, pictures[::-1], tmp_path / "index")
        assert served.post("/similar", content=asked).json() == before
        shown = served.get("/page/indexed", params={"row": before["results"][0]["neighbours"][0]["row"]})
    assert shown.headers["cache-control"] == "no-cache"  # of a service that starts again the row is another's


@pytest.mark.parametrize("names", [("1", "0"), ("a", "0", "1"), ("a", "b"), ("2", "1", "x"), ("01", "1")])
def test_every_model_is_picked_by_its_name_and_by_its_number_where_no_other_is_called_so(names):
    served = Models([Served(name, None) for name in names])
    assert tuple(served.pick(name).name for name in names) == names
    for number, name in enumerate(names):
        assert served.pick(str(number)).name == (str(number) if str(number) in names else name)
    assert served.pick(None).name == served.pick("").name == names[0]


def test_bytes_and_forms_with_several_files_are_taken_and_what_is_broken_is_named(service):
    first, second = pictures(2)
    form = [("file", ("a.png", first)), ("file", ("b.txt", b"no picture")), ("other", ("c.jpg", second))]
    answer = service.post("/predict?model=tiny&topk=2", files=form)
    assert answer.status_code == 200
    facts = answer.json()
    assert [one["file"] for one in facts["results"]] == ["a.png", "c.jpg"]
    assert facts["failed"] == [{"file": "b.txt", "error": "it cannot be read: not a picture"}]
    alone = service.post("/predict?topk=2", content=second, headers={"content-type": "image/jpeg"}).json()
    assert alone["results"][0]["classes"] == facts["results"][1]["classes"]
    assert len(alone["results"][0]["classes"]) == 2


def bomb() -> bytes:
    """900 million pixels in less than 200,000 bytes; made where it is sent, for it takes a second."""
    return encoded(Image.new("1", (30_000, 30_000)), optimize=True)[:200_000]


FORM = (
    b"".join(
        b'--x\r\nContent-Disposition: form-data; name="file"; filename="%d.png"\r\n\r\nx\r\n' % n for n in range(12)
    )
    + b"--x--\r\n"
)
REFUSED = {
    # what it is: address, what is sent, status, words of the sentence
    "no picture": ("/predict", b"hello", 422, "not a picture"),
    "an empty body": ("/predict", b"", 422, "empty, 0 bytes"),
    "half a picture": ("/predict", encoded(coloured("red", 1), "JPEG")[:700], 422, "broken picture"),
    "too many bytes": ("/predict", b"0" * 200_001, 413, "over 200,000 bytes"),
    "too many pixels": ("/predict", encoded(Image.new("1", (2_000, 1_000))), 413, "2,000 x 1,000 pixels"),
    "a bomb": ("/predict", bomb, 413, "more than 500,000 pixels"),
    "a bomb for the page": ("/page/maps", bomb, 413, "more than 500,000 pixels"),
    "a form that is none": ("/predict", ("multipart/form-data", b"--x"), 422, "form cannot be read"),
    "a form without files": ("/predict", ("multipart/form-data; boundary=x", b"--x--\r\n"), 422, "has no picture"),
    "JSON without an address": ("/predict", ("application/json", b"[1]"), 422, '{"url": "…"}'),
    "an address where they are off": ("/predict", ("application/json", b'{"url": "http://localhost/"}'), 403, "--urls"),
    "an unknown model": ("/predict?model=vgg", b"0", 404, "no model is called 'vgg'; there are tiny"),
    "three views": ("/predict?views=3", b"0", 422, "1 or 10"),
    "topk of a word": ("/predict?topk=all", b"0", 422, "a whole number from 1"),
    "an unknown parameter": ("/predict?top_k=1", b"0", 422, "no parameter top_k; /predict takes model, topk, views"),
    "a parameter twice": ("/predict?topk=1&topk=2", b"0", 422, "topk was given more than once"),
    "an unknown layer": ("/features?layer=conv9", b"0", 422, "has no layer 'conv9'; the nearest are"),
    "two layers as npy": ("/features?layer=fc6&layer=fc7&format=npy", b"0", 422, "holds one layer"),
    "an answer of a million values": (
        "/features?layer=" + "&layer=".join(["conv1", "conv2", "conv3"]),
        ("multipart/form-data; boundary=x", FORM),
        413,
        "would be too large",
    ),
    "two pictures as npy": ("/features?format=npy", ("multipart/form-data; boundary=x", FORM), 413, "about 1 at once"),
    "an unknown pool": ("/features?pool=min", b"0", 422, "it takes mean, max"),
    "no index": ("/similar", b"0", 422, "alexnet index makes"),
    "a class that is none": ("/page/heat?class=200", pictures(1)[0], 422, "from 0 to 199"),
    "a map that is none": ("GET /page/patches?layer=conv1&map=64", b"", 422, "no map 64; it has 64, from 0 to 63"),
    "the filters of a pooling": ("GET /page/filters?layer=pool1", b"", 422, "no filters"),
    "no run": ("GET /page/run", b"", 404, "is no run folder"),
    "nothing there": ("GET /nothing", b"", 404, "nothing is at this address"),
    "a way out of static": ("GET /static/..%2fapp.py", b"", 404, "no file"),
    "asked, not sent": ("GET /predict", b"", 405, "takes POST alone"),
}


def body(sent: object) -> tuple[str, bytes]:
    """Its type and its bytes; what takes long to make is made here."""
    sent = sent() if sent is bomb else sent
    return sent if isinstance(sent, tuple) else ("application/octet-stream", sent)


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_answered_is_refused_in_a_sentence(service, name):
    address, sent, status, words = REFUSED[name]
    method, _, path = address.rpartition(" ")
    kind, content = body(sent)
    answer = service.request(method or "POST", path, content=content, headers={"content-type": kind})
    assert answer.status_code == status, answer.text
    assert words in answer.json()["error"]
    assert service.service.room.pictures == service.service.room.held == 0


def test_only_so_many_pictures_wait_and_the_rest_is_told_to_come_again(models):
    free = threading.Event()
    (picture,) = pictures(1)

    class Slow(Served):
        def predictions(self, topk, views):
            compute = super().predictions(topk, views)
            return lambda squares: compute(squares) if free.wait(10) else None

    slow = Slow(**vars(models.all[0]))
    with ThreadPoolExecutor(4) as many, client(Models([slow]), limits=Limits(queue=4, seconds=5)) as service:
        asked = [many.submit(service.post, "/predict", content=picture) for _ in range(4)]
        while service.get("/health").json()["waiting"] < 4:
            pass
        over = service.post("/predict", content=picture)
        free.set()
        assert [one.result().status_code for one in asked] == [200] * 4
    assert over.status_code == 503
    assert "as many pictures are waiting as may (4)" in over.json()["error"]
    assert over.headers["retry-after"] == "1"


@pytest.mark.parametrize(("queue", "count", "status"), [(4, 5, 413), (4, 4, 200), (1, 2, 413), (1, 1, 200)])
def test_a_form_with_more_pictures_than_may_ever_wait_is_not_told_to_come_again(models, queue, count, status):
    form = [("file", (f"{n}.png", picture)) for n, picture in enumerate(pictures(count))]
    with client(models, limits=Limits(queue=queue)) as service:
        answer = service.post("/predict", files=form)
    assert answer.status_code == status, answer.text
    if status == 413:
        assert f"the request has {count} pictures, and {queue} at once are the most" in answer.json()["error"]
        assert "retry-after" not in answer.headers


FLOATS = [
    (name, option.opts[0])
    for name, command in commands.commands.items()
    for option in command.params
    if isinstance(option.type, click.types.FloatParamType)
]


@pytest.mark.parametrize(("command", "option"), FLOATS)
def test_no_option_takes_a_number_that_is_not_finite(refused, command, option):
    for value in ("inf", "-inf", "nan", "infinity", "1e999"):
        assert f"{value} is not a finite number" in refused(command, f"{option}={value}")


def test_the_options_that_take_numbers_are_all_known():
    assert {("serve", "--timeout"), ("serve", "--delay"), ("reproduce", "--minutes")} < set(FLOATS)


def test_what_takes_too_long_is_given_up_in_a_sentence_and_its_batch_mates_are_not_lost():
    async def work() -> None:
        slow, seen = threading.Event(), []

        def compute(rows):
            slow.wait(10)
            seen.append(list(rows))
            return [row * 2 for row in rows]

        async with Batcher(4, 0.01) as batcher:
            first = asyncio.create_task(batcher.ask("a", compute, 1))
            await asyncio.sleep(0.1)  # it is being computed; the others wait
            gone, left = (asyncio.create_task(batcher.ask("a", compute, row)) for row in (2, 3))
            await asyncio.sleep(0.05)
            gone.cancel()
            slow.set()
            assert await first == 2
            assert await left == 6
            assert seen == [[1], [3]]

    asyncio.run(work())


def test_a_batch_holds_one_kind_is_never_larger_than_asked_and_its_error_is_everybodys():
    async def work() -> None:
        seen = []

        def compute(rows):
            seen.append(sorted(rows))
            if "bad" in rows:
                raise ValueError("bad")
            return rows

        async with Batcher(3, 0.02) as batcher:
            asked = [batcher.ask(row % 2, compute, f"{row:02}") for row in range(10)]
            assert await asyncio.gather(*asked) == [f"{row:02}" for row in range(10)]
            both = await asyncio.gather(
                batcher.ask(0, compute, "bad"), batcher.ask(0, compute, "good"), return_exceptions=True
            )
            assert [type(one) for one in both] == [ValueError, ValueError]
            assert await batcher.ask(0, compute, "next") == "next"
        assert all(len(rows) <= 3 and len({int(row) % 2 for row in rows}) == 1 for rows in seen[:-2])

    asyncio.run(work())


# -- who may ask ------------------------------------------------------------------------------------------------


def test_a_token_is_asked_for_wherever_something_is_told_or_computed(models):
    (picture,) = pictures(1)
    with client(models, token="open-sesame") as service:
        paths = json.loads(service.get("/openapi.json").content)["paths"]
        for path in [*paths, "/page/models", "/page/run"]:
            if path == "/health":
                continue
            for given in ({}, {"authorization": "Bearer wrong"}, {"authorization": "open-sesame"}):
                answer = service.post(path, content=picture, headers=given)
                assert answer.status_code == 401, path
                assert "Authorization: Bearer TOKEN" in answer.json()["error"]
        right = {"authorization": "Bearer open-sesame"}
        assert service.post("/predict", content=picture, headers=right).status_code == 200
        assert service.get("/metrics", headers=right).status_code == 200
        assert [service.get(path).status_code for path in ("/", "/docs", "/health", "/static/app.js")] == [200] * 4


def test_other_sites_pages_and_other_names_of_this_machine_are_refused(models):
    (picture,) = pictures(1)
    with client(models, hosts=("localhost", "127.0.0.1", "[::1]")) as service:
        for host in ("localhost", "localhost:8012", "127.0.0.1:1", "[::1]:8012"):
            assert service.get("/health", headers={"host": host}).status_code == 200
        assert service.get("/health", headers={"host": "evil.example"}).status_code == 421
        crossed = service.post("/predict", content=picture, headers={"sec-fetch-site": "cross-site"})
        assert crossed.status_code == 403
        for origin, host, site, status in (
            ("http://evil.example", "localhost", None, 403), ("null", "localhost", None, 403),
            ("http://localhost:81", "localhost:80", None, 403), ("http://localhost:80", "localhost:80", None, 200),
            ("https://proxy.example", "localhost", "same-origin", 200), (None, "localhost", None, 200),
            ("http://localhost:3000", "localhost:8012", "same-site", 403), (None, "localhost", "same-site", 403),
            ("http://localhost:3000", "localhost:3000", "same-site", 403), (None, "localhost", "none", 200),
            ("http://localhost", "localhost", "", 200), ("http://localhost", "localhost", "odd", 403),
        ):  # fmt: skip
            given = {"host": host, "origin": origin, "sec-fetch-site": site}
            headers = {name: value for name, value in given.items() if value is not None}
            assert service.post("/predict", content=picture, headers=headers).status_code == status, given
        for path, mode, status in (
            ("/", "navigate", 200), ("/docs", "navigate", 200), ("/docs", "cors", 403), ("/", "no-cors", 403),
            ("/health", "navigate", 403), ("/openapi.json", "navigate", 403), ("/static/app.js", "navigate", 403),
        ):  # fmt: skip
            for site in ("cross-site", "same-site"):
                given = {"host": "localhost", "sec-fetch-site": site, "sec-fetch-mode": mode}
                assert service.get(path, headers=given).status_code == status, (path, given)
        answer = service.get("/health", headers={"origin": "https://evil.example", "sec-fetch-site": "none"})
        assert answer.status_code == 200
        assert not [name for name in answer.headers if name.startswith("access-control")]


def test_no_answer_names_a_place_on_this_machine(service, tiny_run, index, folders, caplog, monkeypatch):
    texts = []
    (picture,) = pictures(1)
    for path in ("/health", "/openapi.json", "/page/models", "/page/run?model=1", "/page/run/confusion?model=1",
                 "/page/patches?layer=conv5", "/metrics", "/docs", "/"):  # fmt: skip
        texts.append(service.get(path).text)
    for path in ("/predict", "/similar?model=1", "/page/steps", "/page/views", "/page/heat", "/page/compare?other=1"):
        texts.append(service.post(path, content=picture).text)
    texts += [service.post(address, content=body(sent)[1]).text
              for address, sent, *_ in REFUSED.values() if " " not in address]  # fmt: skip

    def broken(*given):
        raise OSError(2, "no such file", str(index / "fc7.npy"))

    monkeypatch.setattr(service.service, "one", broken)
    failed = service.post("/predict", content=picture)
    assert failed.status_code == 500
    assert str(index) in caplog.text  # its operator is told
    for text in [*texts, failed.text]:
        for place in (tiny_run, index, folders, Path(package.__file__).parent, Path.home() / ""):
            assert str(place).rstrip("/") + "/" not in text


def test_the_first_photograph_of_an_iphone_is_held_to_the_limit_of_pixels_too():
    needs("pillow_heif")
    assert reads_heif()  # to write it
    photograph = encoded(coloured("red", 1, (64, 48)), "HEIF")
    for _ in range(2):
        Image.ID.remove("HEIF")  # as before the first of them
        reads_heif.cache_clear()
        with pytest.raises(Refused, match="has 64 x 48 pixels, and 3,000 in all are the most"):
            check_pixels(photograph, 3000)
        check_pixels(photograph, 64 * 48)
