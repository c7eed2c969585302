"""Progress away from a terminal: plain lines on stderr, each with share, rate and time left."""

from __future__ import annotations

import re

from alexnet.base import progress
from alexnet.base.progress import Progress


def test_away_from_a_terminal_progress_is_plain_lines(capsys, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now[0])
    with Progress("training", 1000) as bar:
        bar.facts = {"loss": "2.303", "error": "90.0 %"}
        for _ in range(10):
            now[0] += 4
            bar.update(40)
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert len(lines) == 3  # one each ten seconds at most
    assert lines[0] == "training: 120/1,000 images (12 %), loss 2.303, error 90.0 %, 10 images/s, 1:28 left"
    assert not re.search(r"[\r\x1b]", err)


def test_a_resumed_count_has_the_rate_of_its_own_work(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now[0])
    with Progress("training", 1000, done=500, quiet=True) as bar:
        now[0] = 10
        bar.update(100)
    assert (bar.done, bar.rate) == (600, 10)


def test_quiet_says_nothing(capsys):
    with Progress("training", 10, quiet=True) as bar:
        bar.update(10)
        bar.say("hello")
    assert capsys.readouterr().err == ""
