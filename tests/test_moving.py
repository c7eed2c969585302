"""Moving pictures: frames are those that another program decodes, and their answers those of the pictures alone."""

from __future__ import annotations

import csv
import json
import math
import os
import re
import signal
import struct
import sys
import threading
import time
import weakref
from fractions import Fraction
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from alexnet.inference import prediction
from alexnet.inference.moving import answering, reading
from conftest import COLOURS, coloured, needs

needs("av")
import av  # noqa: E402

from films import FRAMES, RATE, SIZE, cut, frames, of_opencv, write  # noqa: E402


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    return write(tmp_path_factory.mktemp("clip") / "clip.mp4", frames())


@pytest.mark.parametrize(
    ("name", "codec"), [("a.mp4", "libx264"), ("a.mkv", "libx264"), ("a.avi", "mpeg4"), ("a.webm", "libvpx-vp9")]
)
def test_frames_and_their_times_are_those_that_opencv_decodes(tmp_path, name, codec):
    path = write(tmp_path / name, frames(), codec)
    found = list(reading.opened(str(path)))
    wanted = of_opencv(path)
    assert len(found) == len(wanted) == FRAMES
    for number, (frame, other) in enumerate(zip(found, wanted, strict=True)):
        assert frame.number == number
        assert frame.time == pytest.approx(number / RATE, abs=2e-3)
        assert np.abs(np.asarray(frame.picture).astype(int) - other).mean() < 4, number


def test_a_film_that_is_to_be_turned_is_turned_as_opencv_turns_it(clip, tmp_path):
    """The matrix of a telephone held upright, in the header of the track."""
    whole, turned = bytearray(clip.read_bytes()), tmp_path / "turned.mp4"
    one = 1 << 16
    plain, quarter = (
        struct.pack(">9i", *m)
        for m in ((one, 0, 0, 0, one, 0, 0, 0, 1 << 30), (0, one, 0, -one, 0, 0, SIZE[1] * one, 0, 1 << 30))
    )
    at = whole.index(plain, whole.index(b"tkhd"))
    whole[at : at + 36] = quarter
    turned.write_bytes(whole)
    found, wanted = list(reading.opened(str(turned))), of_opencv(turned)
    assert found[0].picture.size == SIZE[::-1]
    for frame, other in zip(found, wanted, strict=True):
        assert np.abs(np.asarray(frame.picture).astype(int) - other).mean() < 4


def test_pixels_that_are_not_square_are_made_so(tmp_path):
    with av.open(str(tmp_path / "wide.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(4, 3)
        for picture in frames(6):
            container.mux(stream.encode(av.VideoFrame.from_image(picture)))
        container.mux(stream.encode(None))
    assert of_opencv(tmp_path / "wide.mp4")[0].shape[:2] == SIZE[::-1]
    (first, *_) = reading.opened(str(tmp_path / "wide.mp4"))
    assert first.picture.size == (round(SIZE[0] * 4 / 3), SIZE[1])


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_every_frame_has_its_answers_and_smoothed_ones_in_a_table(alexnet, tiny_run, clip, tmp_path, ending):
    table = tmp_path / f"out.{ending}"
    status, out, err = alexnet(
        "predict", tiny_run, clip, "--output", table, "--every", 5, "--smooth", 0.8, "--device", "cpu"
    )
    assert status == 0, err
    assert f"{table}: 5 frames" in out
    if ending == "csv":
        rows = list(csv.DictReader(table.read_text().splitlines()))
    elif ending == "jsonl":
        rows = [json.loads(line) for line in table.read_text().splitlines()]
    else:
        rows = pq.read_table(table).to_pylist()
    assert list(rows[0]) == list(answering.COLUMNS)
    numbers = [0, 5, 10, 15, 20]
    assert [int(row["frame"]) for row in rows] == [n for n in numbers for _ in COLOURS]
    pictures = [frame.picture for frame in reading.opened(str(clip))]
    alone = prediction.predict(tiny_run, [pictures[n] for n in numbers])
    smoothed: dict[str, float] = {}
    for place, (number, answer) in enumerate(zip(numbers, alone, strict=True)):
        own = {c.label: c.probability for c in answer.classes}
        mine = rows[place * 3 : place * 3 + 3]
        assert [float(row["time"]) for row in mine] == [pytest.approx(number / RATE, abs=1e-3)] * 3
        assert {row["label"]: float(row["probability"]) for row in mine} == pytest.approx(own, abs=1e-5)
        # By the formula, over the 5 / 12 s between two that are classified.
        keep = math.exp(-5 / RATE / 0.8)
        smoothed = {k: keep * smoothed[k] + (1 - keep) * p if smoothed else p for k, p in own.items()}
        assert {row["smoothed_label"]: float(row["smoothed_probability"]) for row in mine} == pytest.approx(
            smoothed, abs=1e-5
        )
        assert [int(row["rank"]) for row in mine] == [1, 2, 3]


def test_answers_do_not_depend_on_how_many_frames_are_classified_at_a_time(tiny_run, clip):
    from alexnet import load

    one = load(tiny_run)
    found = [
        [
            answer
            for _, answer in answering.answers(one, "clip", reading.opened(str(clip)), every=3, batch_size=size)
            if answer
        ]
        for size in (1, 5, 64)
    ]
    assert len(found[0]) == 8
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            assert (a.frame, [c.index for c in a.smoothed]) == (b.frame, [c.index for c in b.smoothed])
            assert [c.probability for c in a.smoothed] == pytest.approx([c.probability for c in b.smoothed], abs=1e-5)


def test_json_has_each_frame_and_the_end(alexnet, tiny_run, clip):
    status, out, _ = alexnet("predict", tiny_run, clip, "--every", 12, "--json", "--topk", 2)
    facts = json.loads(out.splitlines()[-1])
    assert status == 0
    assert [one["frame"] for one in facts["results"]] == [0, 12]
    assert set(facts["results"][0]) == {"file", "frame", "time", "classes", "smoothed"}
    assert len(facts["results"][0]["smoothed"]) == 2
    assert (facts["frames"], facts["dropped"], facts["failed"]) == (24, 0, [])


def test_a_folder_of_pictures_is_frames_where_an_option_says_so(alexnet, tiny_run, tmp_path):
    for number, picture in enumerate(frames(6)):
        picture.save(tmp_path / f"{number:03}.png")
    status, out, _ = alexnet("predict", tiny_run, tmp_path, "--every", 2, "--rate", 4, "--json")
    facts = json.loads(out.splitlines()[-1])
    assert status == 0
    assert [(one["frame"], one["time"]) for one in facts["results"]] == [(0, 0), (2, 0.5), (4, 1)]
    status, out, _ = alexnet("predict", tiny_run, tmp_path, "--json")
    assert [one["file"][-7:] for one in json.loads(out.splitlines()[-1])["results"]] == [
        f"{n:03}.png" for n in range(6)
    ]
    (tmp_path / "002.png").write_bytes(b"none")
    status, out, err = alexnet("predict", tiny_run, tmp_path, "--every", 1)
    assert status == 1
    assert "1 picture that cannot be read" in err


def slowed(run, seconds: float):
    """A classifier that takes a twelfth of a second or more, where frames come twelve times as fast."""
    from alexnet import load

    one = load(run)
    one.model.register_forward_pre_hook(lambda *given: time.sleep(seconds))
    return one


def test_in_real_time_frames_are_dropped_and_none_is_late(tiny_run, tmp_path):
    path = write(tmp_path / "fast.mp4", frames(90), rate=60)
    slow = slowed(tiny_run, 0.1)
    newest = reading.Newest(reading.opened(str(path)))
    began, late = None, []
    for _, answer in answering.answers(slow, "fast", newest, batch_size=1):
        now = time.monotonic()
        assert answer is not None
        began = now - answer.time if began is None else began
        late.append(now - began - answer.time)
    assert newest.read == 90
    assert len(late) + newest.dropped == 90
    assert 2 <= len(late) <= 20  # 1.5 s at 0.1 s each
    assert max(late) < 3  # with all frames the last would be 7.5 s late, and more where the machine is busy


def test_without_haste_every_frame_is_classified_however_long_it_takes(tiny_run, clip):
    slow = slowed(tiny_run, 0.01)
    found = [answer for _, answer in answering.answers(slow, "clip", reading.opened(str(clip)), batch_size=1)]
    assert None not in found
    assert len(found) == FRAMES


@pytest.mark.parametrize(("size", "held"), [(1, 2), (5, 2), (64, 2)])
def test_only_what_is_looked_at_is_held_however_many_frames_are_left_out(tiny_run, size, held):
    from alexnet import load

    seen: list[weakref.ref] = []

    def given():
        for number in range(60):
            picture = coloured("red", number)
            seen.append(weakref.ref(picture))
            yield reading.Frame(number, number / 10, picture)
            assert sum(one() is not None for one in seen) <= held

    found = list(answering.answers(load(tiny_run), "clip", given(), every=10, batch_size=size))
    assert [answer.frame for _, answer in found if answer] == list(range(0, 60, 10))
    assert len(found) == 60


@pytest.mark.parametrize("first", [4, 15])  # within the first six, which one key frame begins, and beyond them
def test_a_film_that_was_cut_without_coding_it_anew_is_whole(alexnet, tiny_run, clip, tmp_path, first):
    path = cut(clip, tmp_path / "cut.mp4", first)
    status, out, err = alexnet("predict", tiny_run, path, "--json")
    assert (status, json.loads(out.splitlines()[-1])["failed"]) == (0, []), err
    assert json.loads(out.splitlines()[-1])["frames"] == len(of_opencv(path)) == FRAMES - first


def test_films_that_cannot_be_read_take_no_others_answers_along(
    alexnet, refused, tiny_run, clip, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    good, bad, empty = Path("12:30.mp4"), Path("bad.mp4"), Path("empty.mp4")
    good.write_bytes(clip.read_bytes())
    bad.write_bytes(b"no film" * 90)
    whole = write(tmp_path / "whole.mp4", frames(6), movflags="faststart")
    empty.write_bytes(whole.read_bytes()[: whole.read_bytes().index(b"mdat") + 4])
    whole.unlink()
    for films in ([bad, good, empty], ["*.mp4"]):
        table = tmp_path / f"{len(films)}.csv"
        status, _, err = alexnet("predict", tiny_run, *films, "--every", 12, "--output", table)
        assert status == 1
        assert f"{bad} is no video" in err
        assert f"{empty} is no video" in err
        rows = list(csv.DictReader(table.read_text().splitlines()))
        assert {(row["file"], row["frame"]) for row in rows} == {(str(good), "0"), (str(good), "12")}
    said = refused("predict", tiny_run, bad, empty, "--output", tmp_path / "none.csv")
    assert f"none of 2 moving pictures can be read: {bad} is no video" in said
    assert not (tmp_path / "none.csv").exists()
    assert "does not exist" in refused("predict", tiny_run, good, "gone*.mp4")


def test_more_films_than_files_may_be_open_are_read(alexnet, tiny_run, clip):
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/dev/fd")) + 12, hard))
    try:
        status, out, err = alexnet("predict", tiny_run, *[clip] * 16, "--every", 24, "--json", "--device", "cpu")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert status == 0, err
    assert len(json.loads(out.splitlines()[-1])["results"]) == 16


def test_how_many_frames_were_dropped_is_said(alexnet, tiny_run, clip):
    status, out, _ = alexnet("predict", tiny_run, clip, "--realtime", "--json")
    facts = json.loads(out.splitlines()[-1])
    assert status == 0
    assert facts["frames"] + facts["dropped"] == FRAMES
    assert len(facts["results"]) == facts["frames"]


@pytest.mark.parametrize("silent", [False, True])
def test_a_request_to_stop_leaves_a_whole_table(alexnet, tiny_run, tmp_path, monkeypatch, silent):
    """A camera that goes on for minutes, or that has gone silent, and Ctrl-C."""
    picture, table, going = frames(1)[0], tmp_path / "camera.csv", threading.Event()

    class Endless:
        name, rate, total, live, error = "camera:0", 30.0, None, True, ""

        def __iter__(self):
            for number in range(20_000):
                time.sleep(0.01)
                if number == 40:  # within the command, however slow the machine
                    time.sleep(1 if silent else 0)  # until all that was sent is classified
                    os.kill(os.getpid(), signal.SIGINT)
                    going.wait(60 if silent else 0)
                yield reading.Frame(number, number / 100, picture)

        def close(self):
            """Nothing is open."""

    monkeypatch.setattr(reading, "opened", lambda name, rate: Endless())
    began = time.monotonic()
    status, _, err = alexnet("predict", tiny_run, "camera:0", "--output", table)
    going.set()
    assert status == 130, err
    assert time.monotonic() - began < 50
    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert len(rows) >= 3
    assert len(rows) % 3 == 0


BAD = {
    "a text": (lambda path: path.write_text("no film" * 90), "is no video that can be decoded"),
    "nothing": (lambda path: path.write_bytes(b""), "is no video that can be decoded"),
    "no index": (
        lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
        "is no video that can be",
    ),
    "gone": (lambda path: path.unlink(), "does not exist"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_broken_video_is_one_sentence(refused, tiny_run, clip, tmp_path, name):
    path, table = tmp_path / "bad.mp4", tmp_path / "out.csv"
    path.write_bytes(clip.read_bytes())
    change, said = BAD[name]
    change(path)
    assert said in refused("predict", tiny_run, path, "--output", table, "--annotate", tmp_path / "film.mp4")
    assert not table.exists()
    assert not list(tmp_path.glob("*film*"))


def test_sound_alone_is_no_moving_picture(refused, tiny_run, tmp_path):
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        made = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        made.sample_rate = 8000
        container.mux([*stream.encode(made), *stream.encode(None)])
    assert "has no pictures, only sound" in refused("predict", tiny_run, tmp_path / "sound.mp4")


def test_a_video_that_is_cut_short_is_classified_as_far_as_it_goes_and_said(alexnet, tiny_run, tmp_path):
    path = write(tmp_path / "cut.mp4", frames(), movflags="faststart")
    path.write_bytes(path.read_bytes()[: int(0.7 * path.stat().st_size)])
    status, out, err = alexnet("predict", tiny_run, path, "--json")
    facts = json.loads(out.splitlines()[-1])
    assert status == 1
    assert 3 < len(facts["results"]) < FRAMES
    assert facts["failed"][0]["file"] == str(path)
    assert "frame" in facts["failed"][0]["error"]
    assert f"{path} " in err


def test_a_cameras_frames_are_classified_as_they_come(alexnet, tiny_run, monkeypatch, tmp_path):
    """FFmpeg's test pattern stands for the camera; it comes without waiting for anybody."""
    monkeypatch.setitem(reading.CAMERAS, sys.platform, ("lavfi", "testsrc2=rate=20:duration=2:size=96x72"))
    status, out, err = alexnet("predict", tiny_run, "camera:0", "--output", tmp_path / "a.jsonl")
    assert status == 0, err
    said = re.search(r"camera:0: ([\d,]+) of 40 frames dropped to keep up", out)
    numbers = [json.loads(line)["frame"] for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert len(set(numbers)) + int(said[1]) == 40
    assert numbers == sorted(numbers)
    assert numbers[-1] == 39  # the newest is never the one that is dropped


def test_a_camera_that_is_not_there_is_one_sentence(refused, tiny_run):
    assert "camera:97 cannot be opened" in refused("predict", tiny_run, "camera:97")
    assert "camera: needs a number" in refused("predict", tiny_run, "camera:")


def test_a_stream_that_nobody_sends_is_one_sentence(refused, tiny_run):
    said = refused("predict", tiny_run, "rtsp://127.0.0.1:9/none")
    assert "rtsp://127.0.0.1:9/none cannot be opened" in said
    assert "see that it is there" in said


def test_options_of_moving_pictures_on_others_are_refused(refused, tiny_run, clip, tmp_path):
    coloured("red", 0).save(tmp_path / "a.png")
    assert "--every is for moving pictures" in refused("predict", tiny_run, tmp_path / "a.png", "--every", 2)
    assert "were given together" in refused("predict", tiny_run, clip, tmp_path / "a.png")
    assert "--annotate writes one film" in refused("predict", tiny_run, clip, clip, "--annotate", tmp_path / "b.mp4")
    assert "it writes .mp4, .mkv or .mov" in refused("predict", tiny_run, clip, "--annotate", tmp_path / "b.gif")


def test_without_its_package_one_sentence_names_the_extra(refused, tiny_run, clip, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    assert "pip install '.[video]'" in refused("predict", tiny_run, clip)


def test_a_smoother_follows_its_formula_whatever_the_times():
    draw, times = torch.Generator().manual_seed(0), [0.0, 0.1, 0.1, 0.5, 2.0]
    given = torch.rand((5, 4), generator=draw)
    smoother = answering.Smoother(0.3)
    found = [smoother(at, one) for at, one in zip(times, given, strict=True)]
    for last in range(5):
        # The first counts as if it had always been there.
        shares = [
            math.exp(-(times[last] - times[n]) / 0.3) - (math.exp(-(times[last] - times[n - 1]) / 0.3) if n else 0)
            for n in range(last + 1)
        ]
        wanted = sum(share * one.double() for share, one in zip(shares, given, strict=False))
        assert torch.allclose(found[last], wanted)
    assert torch.equal(answering.Smoother(0)(1.0, given[0]), given[0].double())


def test_what_is_moving_is_told_by_its_name():
    for name in ("a.mp4", "b.MKV", "camera:0", "rtsp://x/y", "udp://@:1234"):
        assert reading.is_moving(name)
    for name in ("a.png", "photos/", "-", "camera.jpg", "http.tar"):
        assert not reading.is_moving(name)
