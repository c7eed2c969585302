"""Every way to name pictures gives the same pictures, in order, a few at a time, whatever is broken among them."""

from __future__ import annotations

import io
import itertools
import json
import os
import tarfile

import numpy as np
import pytest
from PIL import Image

from alexnet.base.errors import AlexNetError
from alexnet.data import sources, stream
from alexnet.data.pictures import Unreadable, decode, stored
from alexnet.data.sources import Sources
from conftest import COLOURS, coloured, encoded, write_parquet

NAMES = sorted(COLOURS)


@pytest.fixture
def folder(tmp_path):
    """photos/{blue,green,red}.png and photos/deeper/blue.png; a hidden file beside them."""
    root = tmp_path / "photos"
    (root / "deeper").mkdir(parents=True)
    for n, name in enumerate(NAMES):
        coloured(name, n).save(root / f"{name}.png")
    coloured("blue", 9).save(root / "deeper" / "blue.png")
    (root / ".hidden").write_text("x")
    return root


def pixels(source) -> np.ndarray:
    return np.asarray(decode(source))


def tarred(path, mode, files):
    with tarfile.open(path, mode) as archive:
        for name, contents in files:
            member = tarfile.TarInfo(name)
            member.size = len(contents)
            archive.addfile(member, io.BytesIO(contents))
    return path


def test_files_folders_and_patterns_are_named_in_order_and_counted(folder):
    every = [str(folder / name) for name in ("blue.png", "green.png", "red.png", "deeper/blue.png")]
    cases = {
        str(folder): every,
        str(folder / "*.png"): every[:3],
        str(folder / "**" / "b*.png"): [every[0], every[3]],
        str(folder / "none.png"): [str(folder / "none.png")],
        str(folder / "*.gif"): [str(folder / "*.gif")],
    }
    for argument, names in cases.items():
        named = Sources([argument])
        assert [name for name, _ in named] == names
        assert named.total == len(names)
    with pytest.raises(Unreadable, match="no such file"):
        pixels(next(iter(Sources(str(folder / "*.gif"))))[1])


def test_an_empty_folder_is_refused_before_any_work(tmp_path):
    with pytest.raises(AlexNetError, match="is a folder without files"):
        Sources([tmp_path])


@pytest.mark.parametrize(("name", "mode"), [("a.tar", "w"), ("a.tar.gz", "w:gz"), ("a.tar.xz", "w:xz")])
def test_archives_give_the_pictures_that_were_put_in(folder, tmp_path, name, mode):
    files = [(f"in/{n}.png", (folder / f"{n}.png").read_bytes()) for n in NAMES]
    path = tarred(tmp_path / name, mode, [*files, ("in/.DS_Store", b"x")])
    found = list(Sources([path]))
    assert [n for n, _ in found] == [f"{path}/in/{n}.png" for n in NAMES]
    assert all((pixels(got) == pixels(was)).all() for (_, got), (_, was) in zip(found, files, strict=True))
    assert Sources([path]).total is None


def test_an_archive_cut_short_gives_its_whole_pictures_and_names_itself(folder, tmp_path):
    files = [(f"{n}.png", (folder / f"{n}.png").read_bytes()) for n in NAMES]
    path = tarred(tmp_path / "a.tar", "w", files)
    path.write_bytes(path.read_bytes()[: 512 + len(files[0][1]) + 2000])
    (first, _), (last, fault) = list(Sources([path]))
    assert (first, last) == (f"{path}/blue.png", str(path))
    assert "not a whole tar archive" in str(fault)


def test_links_and_giants_in_an_archive_are_not_followed_nor_read(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "LARGEST", 100)
    path = tarred(tmp_path / "a.tar", "w", [("big.png", b"x" * 101)])
    with tarfile.open(path, "a") as archive:
        link = tarfile.TarInfo("../../etc/passwd")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    (_, big), (_, linked) = list(Sources([path]))
    assert "101 bytes, more than the 100" in str(big)
    assert "a link or a device" in str(linked)


def test_parquet_rows_are_pictures_whether_structs_or_bytes(folder, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    contents = [(folder / f"{n}.png").read_bytes() for n in NAMES]
    first = write_parquet(tmp_path / "a.parquet", [(c, 0) for c in contents], None)
    second = tmp_path / "b.parquet"
    pq.write_table(pa.table({"id": [1, 2, 3], "jpeg": contents}), second)
    named = Sources([first, second])
    assert named.total == 6
    found = list(named)
    assert [n for n, _ in found] == [f"{first}/{i}.png" for i in range(3)] + [f"{second}/row {i}" for i in range(3)]
    assert [c for _, c in found] == contents * 2


def test_parquet_without_pictures_or_broken_is_named(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"id": [1]}), tmp_path / "a.parquet")
    (tmp_path / "b.parquet").write_bytes(b"PAR1 and no more")
    (_, no_column), (_, broken) = list(Sources([tmp_path / "a.parquet", tmp_path / "b.parquet"]))
    assert "with the columns id, none of which holds pictures" in str(no_column)
    assert "not a whole parquet file" in str(broken)


def test_tables_of_pictures_are_no_pictures_of_a_folder_and_are_when_named(folder, tmp_path):
    """Those of paths beside the pictures, and what alexnet predict and features write there."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = ["blue.png", "red.png"]
    tables = {
        "answers": {"file": names, "rank": [1, 1], "label": ["a", "b"], "probability": [0.5, 0.5]},
        "features": {"filename": names, "fc7": [[0.5, 0.25]] * 2},
        "meta": {"image_path": names, "label": [0, 1]},
        "numbers": {"id": [1, 2]},
    }
    every = [name for name, _ in Sources(folder)]
    for name, columns in tables.items():
        pq.write_table(pa.table(columns), folder / f"{name}.parquet")
    own = write_parquet(folder / "own.parquet", [((folder / "red.png").read_bytes(), 0)], None)
    (folder / "torn.parquet").write_bytes(b"PAR1 and no more")
    for argument in (folder, f"{folder}/**"):
        named = Sources(argument)
        assert sorted(name for name, _ in named) == sorted([*every, f"{own}/0.png", f"{folder}/torn.parquet"])
        assert (named.total, named.passed.count) == (6, len(tables))
    for name, wanted in {"features": names, "meta": names, "answers": [], "numbers": []}.items():
        table = folder / f"{name}.parquet"
        named = Sources(table)
        found = [inside for inside, source in named if not isinstance(source, Unreadable)]
        assert found == [f"{table}/{one}" for one in wanted]
        assert named.total == (len(wanted) or 1)


def test_a_pattern_gives_each_file_once_whatever_links_lead_to_it(folder):
    (folder / "deeper" / "green.png").write_bytes((folder / "green.png").read_bytes())
    inner = {f"{folder}/deeper/{name}" for name in ("blue.png", "green.png")}
    every = {f"{folder}/{name}" for name in ("blue.png", "green.png", "red.png")} | inner
    patterns = {"**": every, "*": every, "**/*": every, "**/*.png": every, "d*/*.png": inner, "[dr]*": {}}
    for link, target in {"": "", "again": ".", "deeper/up": "..", "other": "deeper"}.items():
        if link:
            (folder / link).symlink_to(target)
        for pattern, wanted in patterns.items():
            named = Sources(f"{folder}/{pattern}")
            found = [os.path.realpath(name) for name, _ in named]
            assert len(found) == len(set(found)) == named.total, (link, pattern)
            assert not wanted or set(found) == wanted, (link, pattern)
        if link:  # with two, glob itself would take for ever
            (folder / link).unlink()


def test_data_given_as_pictures_is_told_what_takes_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack" / "pack.json").write_text("{}")
    for given in ("pack", "digits"):
        with pytest.raises(AlexNetError, match=f"{given} is DATA .* that takes DATA, such as alexnet evaluate"):
            Sources([given])
    coloured("red", 1).save("digits", "PNG")
    assert Sources(["digits"]).total == 1


class Slow(io.RawIOBase):
    """A pipe that gives a few bytes at a time."""

    def __init__(self, contents: bytes) -> None:
        self.rest = contents

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        part, self.rest = self.rest[: min(7, len(buffer))], self.rest[min(7, len(buffer)) :]
        buffer[: len(part)] = part
        return len(part)


@pytest.mark.parametrize("kind", ["names", "tar", "tar.gz", "picture", "PPM", "one name"])
@pytest.mark.parametrize("pipe", [io.BytesIO, lambda c: io.BufferedReader(Slow(c))])
def test_stdin_is_told_by_its_first_bytes(folder, tmp_path, kind, pipe):
    files = [(f"{n}.png", (folder / f"{n}.png").read_bytes()) for n in NAMES]
    if kind == "names":
        contents = "\n".join([str(folder / "red.png"), "", f"{folder}\r", "nöne.png"]).encode()
    elif kind == "one name":
        contents = str(folder / "red.png").encode()
    elif kind.startswith("tar"):
        contents = tarred(tmp_path / "x", "w:gz" if kind.endswith("gz") else "w", files).read_bytes()
    else:
        contents = encoded(coloured("red", 1), "PNG" if kind == "picture" else "PPM")
    found = list(Sources(["-"], stdin=pipe(contents)))
    names = [name for name, _ in found]
    if kind == "names":
        assert names == [
            str(folder / n) for n in ("red.png", "blue.png", "green.png", "red.png", "deeper/blue.png")
        ] + ["nöne.png"]
    elif kind == "one name":
        assert names == [str(folder / "red.png")]
    elif kind.startswith("tar"):
        assert names == [f"-/{n}.png" for n in NAMES]
        assert [c for _, c in found] == [c for _, c in files]
    else:
        assert names == ["-"]
        assert (pixels(found[0][1]) == np.asarray(coloured("red", 1))).all()


LIST_FORMS = {
    "utf-8": lambda text: text.encode(), "a BOM": lambda text: b"\xef\xbb\xbf" + text.encode(),
    "utf-16 with a mark": lambda text: text.encode("utf-16"), "utf-16 without": lambda text: text.encode("utf-16-le"),
    "utf-16, big end first": lambda text: b"\xfe\xff" + text.encode("utf-16-be"),
}  # fmt: skip


@pytest.mark.parametrize("form", LIST_FORMS)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("pipe", [io.BytesIO, lambda c: io.BufferedReader(Slow(c))])
def test_lists_as_programs_of_every_system_write_them_are_read(folder, monkeypatch, form, end, pipe):
    monkeypatch.chdir(folder)
    coloured("red", 5).save("größe 日本.png")
    lines = ["red.png", "", "größe 日本.png", "deeper\\blue.png", "none\\other.png"]
    found = list(Sources("-", stdin=pipe(LIST_FORMS[form](end.join(lines)))))
    assert [name for name, _ in found] == ["red.png", "größe 日本.png", "deeper/blue.png", "none\\other.png"]


def test_what_is_no_picture_is_passed_over_and_counted_where_it_was_not_named(folder, tmp_path):
    """In folders, patterns and archives; what is called a picture, or cannot be looked at, is kept to be named."""
    others = {"notes.txt": b"words", "index.html": b"<p>", "0.cls": b"3", "0.json": b"{}", "empty": b""}
    kept = {"unnamed": encoded(coloured("red", 7)), "broken.jpg": b"no picture", "cut.HEIC": b"", "0.jpg": b"\xff\xd8"}
    for name, contents in {**others, **kept}.items():
        (folder / "deeper" / name).write_bytes(contents)
    (folder / "deeper" / "lost").symlink_to("nowhere")
    archive = tarred(tmp_path / "a.tar", "w", list({**others, **kept}.items()))
    for argument, wanted in {
        folder: {*kept, "lost", "blue.png", "green.png", "red.png"},
        f"{folder}/deeper/*": {*kept, "lost", "blue.png"},
        archive: set(kept),
    }.items():
        named = Sources(argument)
        assert {name.rpartition("/")[2] for name, _ in named} == wanted
        assert named.passed.count == len(others)
        assert [line.partition(",")[0] for line in named.passed.lines()] == [
            f"passed over {len(others)} files other than pictures"
        ]
        assert named.total in (None, len(list(named)))
    assert [name for name, _ in Sources([str(folder / "deeper" / "notes.txt")])] == [f"{folder}/deeper/notes.txt"]
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("x")
    with pytest.raises(AlexNetError, match=r"is a folder without pictures, with 1 other file; give pictures"):
        Sources([tmp_path / "texts"])


def test_a_folder_is_entered_once_and_one_that_may_not_be_listed_is_named(folder, monkeypatch):
    (folder / "deeper" / "again").symlink_to("..")
    (folder / "closed").mkdir()
    real = os.scandir

    def scandir(path="."):
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    named = Sources(folder)
    found = dict(named)
    assert sorted(name.removeprefix(f"{folder}/") for name in found) == [
        "blue.png", "closed", "deeper/blue.png", "green.png", "red.png",
    ]  # fmt: skip
    assert "cannot be listed (Permission denied)" in str(found[f"{folder}/closed"])
    assert "again leads to" in next(named.passed.lines())
    assert named.total == 5


def test_predict_goes_on_past_what_is_no_picture_and_fails_by_what_is_called_one(alexnet, folder, tmp_path):
    (folder / "notes\nof\udce9.txt").write_text("words")
    status, out, err = alexnet("predict", "tiny", folder, "--topk", "1")
    assert status == 0, err
    assert "passed over 1 file other than pictures, such as" in out
    assert r"notes\nof\xe9.txt" in out
    shard = tarred(tmp_path / "a.tar", "w", [("0.cls", b"3"), ("0.png", (folder / "red.png").read_bytes())])
    status, out, err = alexnet("predict", "tiny", shard, "--json")
    assert (status, json.loads(out)["passed_over"], json.loads(out)["failed"]) == (0, 1, [])
    (folder / "broken.jpg").write_bytes(b"no picture")
    status, out, err = alexnet("predict", "tiny", folder)
    assert status == 1
    assert "broken.jpg: not a picture" in err


def test_an_empty_stdin_is_refused():
    with pytest.raises(AlexNetError, match="nothing came on stdin"):
        list(Sources(["-"], stdin=io.BytesIO()))


def test_batches_hold_every_picture_in_order_and_name_the_broken(tmp_path):
    whole = [encoded(coloured(name, n)) for n in range(9) for name in NAMES]
    given = [b"" if i % 5 == 2 else c for i, c in enumerate(whole)]
    batches = list(stream.named_batches(Sources(given), 32, 3, 8, workers=3))
    assert [len(b) for b in batches] == [8, 8, 8, 3]
    assert [n for b in batches for n in b.names] == [f"picture {i}" for i in range(27)]
    errors = [e for b in batches for e in b.errors]
    assert [i for i, e in enumerate(errors) if e] == [i for i in range(27) if i % 5 == 2]
    got = np.concatenate([b.pixels.numpy() for b in batches])
    expected = [stored(decode(c), 32) for i, c in enumerate(whole) if i % 5 != 2]
    assert (got == np.stack(expected)).all()


def test_a_stream_without_end_is_read_a_few_batches_ahead():
    read = 0

    def endless():
        nonlocal read
        for n in itertools.count():
            read += 1
            yield f"{n}", Image.new("RGB", (8, 8))

    batches = stream.named_batches(endless(), 8, 3, 4)
    for number, _ in enumerate(itertools.islice(batches, 50), 1):
        assert read <= 4 * (number + stream.AHEAD)
    batches.close()
