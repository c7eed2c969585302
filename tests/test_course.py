"""Every lesson of docs/course runs from top to bottom, and what it prints is what stands beneath its code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LESSONS = sorted(path.name for path in (ROOT / "docs" / "course").glob("*.md") if path.name != "index.md")
BLOCK = re.compile(r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```$)?", re.M | re.S)
NUMBER = re.compile(r"(-?\d[\d,]*(?:\.\d+)?)(e[+-]\d+)?(%?)")

pytestmark = pytest.mark.slow


def as_printed(wanted: str, given: str) -> bool:
    """Whether both are one text, but that fractions and percentages may differ by two in their last place."""
    if NUMBER.sub(r"0\3", wanted).split() != NUMBER.sub(r"0\3", given).split():
        return False
    for one, other in zip(NUMBER.finditer(wanted), NUMBER.finditer(given), strict=True):
        digits, power, percent = (part or "" for part in one.groups())
        last = 10.0 ** (int(power[1:] or 0) - len(digits.partition(".")[2])) if percent or "." in digits else 0.0
        first, second = (float(match[0].rstrip("%").replace(",", "")) for match in (one, other))
        if abs(first - second) > 2.001 * last:
            return False
    return True


@pytest.mark.parametrize("name", LESSONS)
def test_a_lesson_runs_and_prints_what_it_says(name, tmp_path, monkeypatch, capsys):
    (tmp_path / "results").symlink_to(ROOT / "results")
    monkeypatch.chdir(tmp_path)
    lesson = (ROOT / "docs" / "course" / name).read_text("utf-8")
    names = {"__name__": "lesson"}
    for code, wanted in BLOCK.findall(lesson):
        exec(compile(code, name, "exec"), names)
        given = capsys.readouterr().out
        assert as_printed(wanted, given), f"{name} says\n{wanted}\nand prints\n{given}"


def test_what_is_printed_is_compared_number_by_number():
    assert as_printed("12.34 of 5 are 20%", "12.36 of 5 are 18%")
    assert as_printed("1.0e-23 of tanh", "1.2e-23 of  tanh")
    assert not as_printed("12.34", "12.37")
    assert not as_printed("20%", "17%")
    assert not as_printed("1.0e-23", "1.4e-23")
    assert not as_printed("60,965,224", "60,965,225")
    assert not as_printed("True", "False")
    assert not as_printed("1 of 2", "1 of 2 3")
    assert not as_printed("4", "4%")


def test_every_lesson_has_its_row_in_the_course_and_its_answers():
    index, answers = ((ROOT / "docs" / "course" / name).read_text("utf-8") for name in ("index.md", "answers.md"))
    lessons = [name for name in LESSONS if name != "answers.md"]
    titles = [(ROOT / "docs" / "course" / name).read_text("utf-8").splitlines()[0][2:] for name in lessons]
    assert re.findall(r"^\| \[(.*?)\]\((.*?)\)", index, re.M) == list(zip(titles, lessons, strict=True))
    assert re.findall(r"^## (.*)$", answers, re.M) == titles
