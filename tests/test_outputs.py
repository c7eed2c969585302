"""Every file that a command writes: never over another, only under endings that it writes, told from the help."""

from __future__ import annotations

import errno
import re
from pathlib import Path

import filelock
import pytest

from alexnet.base import files, tables
from alexnet.base.errors import AlexNetError
from alexnet.data.layouts.base import layouts
from alexnet.inference import confusion, contact_sheet, exporting, feature_files
from alexnet.inference.moving import annotating
from alexnet.weights.registry import readers, writers

FILMS = dict.fromkeys(annotating.SUFFIXES)
OUTPUTS = {
    # the words before the file, the endings that it may have, and the option (none: an argument)
    "predict's table": (["predict", "RUN", "PICTURE"], tables.WRITERS, "--output"),
    "a film's table": (["predict", "RUN", "clip.mp4"], tables.WRITERS, "--output"),
    "predict's film": (["predict", "RUN", "clip.mp4"], FILMS, "--annotate"),
    "features": (["features", "RUN", "PICTURE"], feature_files.FORMATS, "--output"),
    "a contact sheet": (["similar", "none", "PICTURE"], contact_sheet.FORMATS, "--output"),
    "answers to pictures": (["evaluate", "RUN", "DATA"], tables.WRITERS, "--pictures"),
    "errors of classes": (["evaluate", "RUN", "DATA"], tables.WRITERS, "--per-class"),
    "a confusion matrix": (["evaluate", "RUN", "DATA"], confusion.MATRICES, "--confusion"),
    "weights": (["convert", "RUN"], {suffix: one for suffix, one in writers().items() if suffix}, ""),
    **{
        f"an export as {name}": (["export", "RUN", "--format", name], {ending: name}, "")
        for name, ending in exporting.ENDINGS.items()
    },
}


def contents(folder: Path) -> dict[str, bytes | None]:
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in sorted(folder.rglob("*"))}


@pytest.mark.parametrize("name", OUTPUTS)
def test_a_file_that_cannot_be_new_is_refused_in_a_sentence_and_nothing_changes(
    name, refused, tiny_run, folders, tmp_path
):
    words, endings, option = OUTPUTS[name]
    places = {"RUN": tiny_run, "DATA": folders, "PICTURE": next(folders.rglob("*.png"))}
    command = [places.get(word, word) for word in words] + [option] * bool(option)
    suffix = next(iter(endings))
    (tmp_path / f"file{suffix}").write_text("mine")
    (tmp_path / f"folder{suffix}").mkdir()
    before = contents(tmp_path)
    expected = {
        f"file{suffix}": "exists already",
        f"folder{suffix}": "exists already",
        "new.other": f"was given {tmp_path / 'new.other'}; it writes ",
        f"none/new{suffix}": f"there is no folder {tmp_path / 'none'}",
    }
    for file, said in expected.items():
        sentence = refused(*command, tmp_path / file)
        assert said in sentence, sentence
        assert str(tmp_path / file) in sentence
        if "it writes" in said:
            assert all(ending in sentence for ending in endings)
        assert contents(tmp_path) == before


FOLDERS = {
    "an index": ["index", "RUN", "PICTURE"],
    "a pack": ["pack", "DATA"],
    "a page": ["look", "RUN", "PICTURE", "--out"],
}


@pytest.mark.parametrize("name", [*OUTPUTS, *FOLDERS])
def test_what_another_process_is_writing_is_refused_and_its_parts_are_left_alone(
    name, refused, tiny_run, folders, tmp_path
):
    words, endings, option = OUTPUTS.get(name) or (FOLDERS[name], [""], "")
    places = {"RUN": tiny_run, "DATA": folders, "PICTURE": next(folders.rglob("*.png"))}
    command = [places.get(word, word) for word in words] + [option] * bool(option)
    new = tmp_path / f"new{next(iter(endings))}"
    (tmp_path / f".{new.name}.1.part").write_text("half")
    with filelock.FileLock(tmp_path / f".{new.name}.lock"):
        assert f"{new} is being written by another process; wait until" in refused(*command, new)
        assert sorted(p.name for p in tmp_path.iterdir()) == sorted([f".{new.name}.1.part", f".{new.name}.lock"])


def test_what_a_killed_process_left_beside_an_output_goes_with_the_next_and_no_lock_stays(
    alexnet, tiny_run, folders, tmp_path
):
    for name in (".new.csv.1.part", ".new.csv.lock", ".new.csv.npy.1.part", ".other.csv.1.part"):
        (tmp_path / name).write_text("half")
    assert alexnet("predict", tiny_run, next(folders.rglob("*.png")), "--output", tmp_path / "new.csv")[0] == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == [".new.csv.npy.1.part", ".other.csv.1.part", "new.csv"]


def test_a_disk_without_locks_is_said_and_written(tmp_path, monkeypatch, caplog):
    def acquire(*_: object, **__: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(filelock.FileLock, "acquire", acquire)
    with files.one_writer():
        files.check_new("--output", tmp_path / "new.csv")
    assert "has no locks: let no other process write there meanwhile" in caplog.text


def test_an_output_that_appears_meanwhile_is_not_written_over(tmp_path, monkeypatch):
    """By the check after the lock: the other process had it, and was done, between the two."""
    monkeypatch.setattr(files, "hold", lambda what, path: path.write_text("theirs"))
    with files.one_writer(), pytest.raises(AlexNetError, match="exists already"):
        files.check_new("--output", tmp_path / "new.csv")


@pytest.mark.parametrize("name", [name for name, (_, _, option) in OUTPUTS.items() if option])
def test_the_help_names_the_endings_that_are_written(name):
    from alexnet.cli import commands

    (command, *_), endings, option = OUTPUTS[name]
    (found,) = [one for one in commands.get_command(None, command).params if option in one.opts]
    assert set(re.findall(r"\.[a-z0-9]+", found.help.split("[")[0])) == set(endings)


def test_the_help_of_export_names_the_endings_that_it_writes():
    from alexnet.cli import commands

    said = re.search(r"OUT is a new (.*?)\. ", " ".join(commands.get_command(None, "export").help.split()))[1]
    assert set(re.findall(r"\.[a-z0-9]+", said)) - {".bin"} == set(exporting.ENDINGS.values())


PAGES = Path(__file__).parent.parent / "docs" / "reference"


def rows(page: str) -> list[list[str]]:
    """The cells of a page's first table, less its head."""
    lines = (PAGES / page).read_text("utf-8").split("| --- |", 1)[1].split("\n\n")[0].splitlines()[1:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_the_reference_and_the_help_name_every_format_of_weights():
    from alexnet.cli import commands

    table = rows("weights.md")
    read = " ".join(cells[0] for cells in table if cells[1].startswith("yes"))
    written = " ".join(" ".join(cells) for cells in table if cells[2].startswith(("yes", "every", "`")))
    for one in readers():
        word = one.words if one.words.startswith(".") else one.words.removeprefix("a ").split()[0]
        assert word in read, one.words
        assert one.words in " ".join(commands.help.split())
    for suffix in writers():
        assert (f"`{suffix}`" if suffix else "without an ending") in written or f"`{suffix}` of" in written, suffix


def test_the_reference_and_the_help_name_every_layout():
    from alexnet.cli import commands

    said = " ".join(commands.help.split()).lower()
    table = " ".join(" ".join(cells) for cells in rows("data.md")).lower().replace("`", "")
    for one in layouts():
        what = one.words.removeprefix("the word ").removeprefix("a folder of ").split(" with the columns")[0]
        assert what.split(" (")[0].lower() in said, one.words
        short = {"parquet files": "*.parquet", "ImageNet as downloaded or unpacked": "imagenet as downloaded"}
        assert short.get(what, what).split(" (")[0].lower() in table, one.words
