"""Commands that keep no file of their own, killed in the middle: --resume goes on, and all is as if left alone."""

from __future__ import annotations

import errno
import re
from pathlib import Path

import filelock
import pytest

from alexnet.base import journal
from alexnet.data import checking
from alexnet.inference import evaluation, prediction

pytestmark = [
    pytest.mark.cpu,
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),  # who is killed closes no file
]


class Killed(BaseException):
    """What ends a process without asking it."""


PROBABILITIES = prediction, "probabilities"
# A command, where each of its batches passes, and how many there are.
COMMANDS = {
    "predict": (("predict", "MODEL", "DATA/train", "--batch-size", "8", "--json"), PROBABILITIES, 6),
    "table": (("predict", "MODEL", "DATA/val", "--batch-size", "3", "--output", "OUT"), PROBABILITIES, 5),
    "evaluate": (("evaluate", "MODEL", "DATA", "--batch-size", "4", "--json"), (evaluation, "count"), 4),
    "pictures": (("evaluate", "MODEL", "DATA", "--batch-size", "4", "--pictures", "OUT"), (evaluation, "count"), 4),
    "check": (("check", "DATA", "--full", "--json"), (checking, "_see_all"), 16),
}  # fmt: skip


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("ALEXNET_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / journal.FOLDER


@pytest.fixture
def asked(alexnet, tiny_run, folders, tmp_path, monkeypatch):
    """Run a command whose batch of a number kills it: status, stdout and table, and how many batches were made."""
    monkeypatch.setattr(checking, "CHUNK", 4)

    def ask(name: str, *more: str, dies: int = 0, out: str = "out.csv"):
        words, (module, function), _ = COMMANDS[name]
        known = {"MODEL": str(tiny_run), "DATA": str(folders), "OUT": str(tmp_path / out)}
        words = tuple(re.sub("|".join(known), lambda found: known[found[0]], word) for word in words)
        made, real = [], getattr(module, function)

        def counting(*given, **options):
            made.append(given)
            if len(made) == dies:
                raise Killed
            return real(*given, **options)

        with monkeypatch.context() as patch:
            patch.setattr(module, function, counting)
            status, said, _ = alexnet(*words, *more)
        said = re.sub(r'("seconds"|"images_per_second"): [\d.e+-]+|[\d,]+ images/s|out\d?.csv', "", said)
        table = (tmp_path / out).read_bytes() if (tmp_path / out).exists() else b""
        return (status, said, table), len(made)

    return ask


@pytest.mark.parametrize("name", COMMANDS)
def test_a_killed_command_goes_on_where_it_was_and_ends_as_one_left_alone(asked, cache, name):
    whole, batches = asked(name)
    assert batches == COMMANDS[name][2]
    assert not cache.exists()  # nothing is kept that was not asked for
    with pytest.raises(Killed):
        asked(name, "--resume", dies=4, out="out2.csv")
    (kept,) = cache.glob("*.rounds")
    with open(kept, "ab") as file:
        file.write(b"half a record")
    again, left = asked(name, "--resume", out="out3.csv")
    assert again == whole
    assert left < batches
    assert not list(cache.glob("*.rounds"))


def test_without_resume_a_command_begins_anew(asked, cache):
    whole, batches = asked("evaluate")
    with pytest.raises(Killed):
        asked("evaluate", "--resume", dies=3)
    assert asked("evaluate") == (whole, batches)


def test_torchruns_restart_goes_on_by_itself_and_another_job_does_not(asked, cache, monkeypatch):
    whole, batches = asked("evaluate")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "a job")
    with pytest.raises(Killed):
        asked("evaluate", dies=3)
    again, left = asked("evaluate")
    assert (again, left) == (whole, batches - 2)  # two were kept
    with pytest.raises(Killed):
        asked("evaluate", dies=3)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "another")
    assert asked("evaluate") == (whole, batches)


def test_a_disk_without_locks_is_said_and_the_journal_kept(asked, cache, monkeypatch, caplog):
    def none(*_: object, **__: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(filelock.FileLock, "acquire", none)
    with pytest.raises(Killed):
        asked("evaluate", "--resume", dies=3)
    (status, *_), left = asked("evaluate", "--resume")
    assert (status, left) == (0, 2)
    assert "has no locks: let no other process write there meanwhile" in caplog.text


def test_other_pictures_than_before_are_refused(alexnet, refused, tiny_run, folders, cache, tmp_path, monkeypatch):
    """The same pattern, under which there are others now."""
    (tmp_path / "p").mkdir()
    for number, file in enumerate(sorted((folders / "val" / "red").iterdir())):
        (tmp_path / "p" / f"{number}.png").write_bytes(file.read_bytes())
    words = ["predict", tiny_run, str(tmp_path / "p" / "*.png"), "--batch-size", "1", "--resume"]
    real, made = prediction.probabilities, []

    def dying(*given):
        made.append(given)
        if len(made) == 4:
            raise Killed
        return real(*given)

    monkeypatch.setattr(prediction, "probabilities", dying)
    with pytest.raises(Killed):
        alexnet(*words)
    (tmp_path / "p" / "1.png").rename(tmp_path / "p" / "1a.png")
    assert "--resume: the pictures are not those that were given before" in refused(*words)
    assert len(list(cache.glob("*.rounds"))) == 1  # nothing is lost
