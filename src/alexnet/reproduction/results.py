"""What a study leaves in results/NAME: a line of JSON a network, a figure, the verdict; and one page of them all."""

from __future__ import annotations

import functools
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from alexnet.base.errors import AlexNetError
from alexnet.base.files import check_new, hold, write_all, write_bytes
from alexnet.base.text import counted
from alexnet.reproduction import figures, overview
from alexnet.reproduction.claims import CLAIMS, Claim
from alexnet.reproduction.intervals import Interval, met, together, verdict
from alexnet.reproduction.measures import Outcome
from alexnet.reproduction.running import Study

RUNS, RESULT, FIGURE, PAGE = "runs.jsonl", "result.json", "figure.png", "README.md"
FACTS = {"claim", "quick", "verdict", "seeds", "sets", "notes", "comparisons"}  # that every result has


def folder_of(out: Path, name: str, quick: bool) -> Path:
    """Where a claim's results are; a quick study has a folder of its own, so that it never replaces a whole one."""
    return out / (f"{name}-quick" if quick else name)


def refuse_to_replace(study: Study, fewer: bool = False) -> None:
    """An error where what a study would write is there already, of other keys, of other data, or of more seeds.

    With `fewer`, more seeds may be there.
    """
    folder = folder_of(study.out, study.claim.name, study.quick)
    held = read(folder, study.claim)
    if held is None:
        for name in (RUNS, FIGURE, PAGE):
            if (folder / name).exists():
                raise AlexNetError(
                    f"{folder} holds {name} and no {RESULT}, so it is no result of a claim; move it away, or give "
                    "another --out."
                )
        return
    sets = list(study.sets)
    if sorted(held["sets"]) != sorted(sets) or (held["seeds"] > study.seeds and not fewer):
        raise AlexNetError(
            f"{folder} holds a result of {_asked(held['seeds'], held['sets'])}, and {_asked(study.seeds, sets)} was "
            "asked for; give another --out, or delete it."
        )
    if held.get("identity") not in (None, study.identity()):  # older results do not say
        raise AlexNetError(
            f"{folder} holds a result of other pictures than those of {study.data().path}; give another --out, or "
            "delete it."
        )


def _asked(seeds: int, sets: list[str]) -> str:
    return f"{counted(seeds, 'seed')} with {' '.join(f'--set {one}' for one in sets) or 'no --set'}"


def write(study: Study, outcome: Outcome) -> dict[str, Any]:
    """Write everything, unless another result is there; gives the contents of result.json."""
    refuse_to_replace(study)
    claim, folder = study.claim, folder_of(study.out, study.claim.name, study.quick)
    folder.mkdir(parents=True, exist_ok=True)
    views = sorted({1, claim.views})
    lines = [one.line(v) for several in outcome.runs.values() for one in several for v in views]
    facts: dict[str, Any] = {
        "claim": claim.name, "quick": study.quick, "verdict": outcome.verdict, "seeds": study.seeds,
        "sets": list(study.sets), "identity": study.identity(), "views": claim.views, "notes": outcome.notes,
        "comparisons": [
            {"name": one.name, "unit": one.unit, "mean": _number(one.interval.mean), "low": _number(one.interval.low),
             "high": _number(one.interval.high), "seeds": one.interval.seeds, "pictures": one.interval.pictures,
             "verdict": one.verdict, "paper": one.paper}
            for one in outcome.comparisons
        ],
    }  # fmt: skip
    title = f"{claim.name} ({claim.section}): {outcome.verdict}" + (", quick" if study.quick else "")
    write_all(
        {
            folder / RUNS: _put("".join(json.dumps(line) + "\n" for line in lines)),
            folder / FIGURE: functools.partial(figures.save_figure, outcome, title),
            folder / PAGE: _put(page(facts, lines, FIGURE)),
            folder / RESULT: _put(json.dumps(facts, indent=1) + "\n"),
        }
    )
    return facts


def _number(x: float) -> float | None:
    return round(x, 4) if math.isfinite(x) else None


def ours(one: dict[str, Any]) -> str:
    """A comparison in words: 1.23 points (0.45 to 2.01)."""
    if one["mean"] is None:
        return "–"
    low, high = one["low"], one["high"]
    if low is None:
        sure = "one seed: no interval"
    else:
        sure = f"{low:.2f} or more" if high is None else f"{low:.2f} to {high:.2f}"
    return f"{one['mean']:.2f} {one['unit']} ({sure})"


MEANINGS = {
    "reproduced": "all of the interval is on the paper's side",
    "weaker": "the effect is there, but smaller than the paper's, whose figure the interval excludes",
    "stronger": "the effect is there, and greater than the paper's, whose figure the interval excludes",
    "opposite": "under this budget and on these data the paper's side lost",
    "not distinguishable": "these runs cannot tell the effect from none, nor show that there is none",
}


STATED = {
    "reproduced": "the stated error is met, within what chance and its rounding explain",
    "opposite": "the stated error is missed, by more than chance and its rounding explain",
    "not distinguishable": "these runs cannot tell whether the stated error is met",
}


def meaning(claim: Claim, facts: dict[str, Any]) -> str:
    """What the verdict means, in a sentence."""
    if claim.kind == "stated":
        if not claim.stated:
            return "It means: the error to know; why the paper's is not compared is said below."
        return f"It means: {STATED[facts['verdict']]}."
    told = MEANINGS[facts["verdict"]]
    if any(one["mean"] is not None and one["low"] is not None and one["high"] is None for one in facts["comparisons"]):
        told += ", as far as a bound from below can say"
    if any("one beyond it may be sooner" in note for note in facts["notes"]):
        told += "; but the search for the best rate ended at an edge of those tried"
    return f"It means: {told}."


def page(facts: dict[str, Any], lines: list[dict[str, Any]], figure: str) -> str:
    """What was tested, how, and what came of it in three sentences; both figures, the verdict, and the networks."""
    claim = CLAIMS[facts["claim"]]
    quick = " --quick" if facts["quick"] else ""
    sets = "".join(f" --set {one}" for one in facts["sets"])
    text = [f"## {claim.name} ({claim.section}){', quick' if facts['quick'] else ''}", ""]
    text += [f"{claim.text} {claim.how} {meaning(claim, facts)}", ""]
    if facts["quick"]:
        epochs, classes, each = claim.quick
        text += [
            f"A quick study, which shows that the command works and cannot decide the claim: {epochs} epochs of at "
            f"most {classes} classes with at most {each} pictures each.",
            "",
        ]
    text += [f"**{facts['verdict']}**; the paper: {claim.paper}.", ""]
    text += ["| compared | ours (95 % interval) | verdict |", "| --- | --- | --- |"]
    text += [f"| {one['name']} | {ours(one)} | {one['verdict']} |" for one in facts["comparisons"]]
    text += ["", *[f"- {note}" for note in facts["notes"]], *([""] if facts["notes"] else [])]
    if claim.kind == "neighbours":
        text += ["Its figure shows the data set's own photographs, so it is made where they are and not kept here.", ""]
    else:
        text += [f"![{claim.name}]({figure})", ""]
    text += ["| network | variant | data | seed | epochs | views | top-1 error, % | top-5 error, % | minutes |"]
    text += ["| --- | --- | --- | --- | --- | --- | --- | --- | --- |"]
    for line in lines:
        text.append(
            f"| {line['arm']} | `{line['variant']}` | "
            f"{counted(line['images'], 'picture')}, {counted(line['classes'], 'class')}, {line['data']} | "
            f"{line['seed']} | {line['epochs']} | {line['views']} | {100 * line['top1_error']:.2f} | "
            f"{100 * line['top5_error']:.2f} | {line['seconds'] / 60:.0f} |"
        )
    devices = sorted({line["device"] for line in lines})
    commits = sorted({str(line["commit"]) for line in lines})
    versions = sorted({", ".join(f"{name} {one}" for name, one in line["versions"].items()) for line in lines})
    text += [
        "",
        f"`alexnet reproduce {claim.name} --data DIR --seeds {facts['seeds']}{quick}{sets}`; {', '.join(devices)}; "
        f"{' and '.join(versions)}; commit {', '.join(commits)}.",
        "",
    ]
    return "\n".join(text)


def found(out: Path) -> Iterable[tuple[Claim, dict[str, Any], list[dict[str, Any]], Path]]:
    """Every result in a folder of results, in the order of the claims, whole studies before quick ones."""
    for quick in (False, True):
        for claim in CLAIMS.values():
            folder = folder_of(out, claim.name, quick)
            facts = read(folder, claim)
            if facts is None:
                continue
            with _whole(folder, claim):
                lines = [json.loads(line) for line in (folder / RUNS).read_text("utf-8").splitlines()]
            yield claim, facts, lines, folder


def read(folder: Path, claim: Claim) -> dict[str, Any] | None:
    """What its result.json says, with the verdicts of today's rules; None where there is none."""
    if not (folder / RESULT).exists():
        return None
    with _whole(folder, claim):
        facts = json.loads((folder / RESULT).read_text("utf-8"))
        if missing := FACTS - set(facts):
            raise ValueError(f"it does not say {', '.join(sorted(missing))}")
        return judged(claim, facts)


@contextmanager
def _whole(folder: Path, claim: Claim) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise AlexNetError(
            f"{folder} holds a damaged result ({error}); delete it and run alexnet reproduce {claim.name} anew."
        ) from None


def judged(claim: Claim, facts: dict[str, Any]) -> dict[str, Any]:
    """The same facts with the verdicts of today's rule, where that is one on an interval; older results know fewer."""
    if claim.kind not in ("errors", "views", "ensemble", "sooner") and not claim.stated:
        return facts
    told = []
    for one in facts["comparisons"]:
        at = 1 if one["name"].endswith("top-5") else 0
        paper, none = claim.compared(facts["seeds"])[at], 1.0 if one["unit"] == "times" else 0.0
        low, high = (end if one[key] is None else one[key] for key, end in (("low", -math.inf), ("high", math.inf)))
        mean = math.nan if one["mean"] is None else one["mean"]
        interval = Interval(mean, low, high, one["seeds"], one["pictures"])
        said = met(interval, claim.stated) if claim.stated else verdict(interval, none, paper, claim.over)
        told.append(one | {"verdict": said, "paper": paper})
    return facts | {"comparisons": told, "verdict": together([one["verdict"] for one in told])}


def check_report(file: Path) -> None:
    """Refuse, before any work, a page that could not be written, or that would replace what `report` has not made."""
    picture, title = file.with_suffix(".png"), HEAD.partition("\n")[0].encode()
    if file.suffix == ".md" and file.is_file() and file.read_bytes().startswith(title):  # its own, and so is its figure
        hold("--report", file)
        hold("--report", picture)
    else:
        check_new("--report", file, [".md"], [picture])


def report(out: Path, file: Path) -> int:
    """Write one page of all results in `out`, its figure beside it, and each result's own page anew; their number."""
    check_report(file)
    rows, parts, shown = [], [], []
    for claim, facts, lines, folder in found(out):
        quick = facts["quick"]
        said = "; ".join(f"{one['name']}: {ours(one)}" for one in facts["comparisons"])
        anchor = f"{claim.name} ({claim.section}){', quick' if quick else ''}"
        rows.append(f"| {anchor} | {claim.paper} | {said} | {'quick: ' if quick else ''}{facts['verdict']} |")
        shown.append((claim, facts))
        with _whole(folder, claim):
            own, part = (page(facts, lines, at) for at in (FIGURE, os.path.relpath(folder / FIGURE, file.parent)))
        write_bytes(folder / PAGE, own.encode())
        parts.append(part)
    if not rows:
        raise AlexNetError(f"--out {out} holds no results; run alexnet reproduce NAME --data DIR first.")
    picture = file.with_suffix(".png")
    overview.save_overview(shown, picture)
    text = "\n".join([HEAD.format(picture=picture.name), *rows, "", *parts])
    write_bytes(file, text.encode())
    return len(rows)


def _put(text: str) -> Callable[[IO[bytes]], object]:
    return lambda file: file.write(text.encode())


HEAD = """# The paper's claims, put to the test

![the paper's claims: its figures and ours]({picture})

Diamonds are the paper's figures, points and bars ours with their 95 % intervals; what has no such axis
(headline, init-and-bias, filters) is in the table alone. Written by `alexnet reproduce
--report`, from the results in `results/`; each is made by the command under it. A verdict is by the interval of the
difference, paired over validation pictures and seeds: *reproduced* if all of it is on the paper's side, but *weaker*
or *stronger* if it excludes the paper's figure: reproduced in direction, not in size; *opposite* if all of it is on
the other side; else *not distinguishable*. A stated error (cifar-18) is met where all of the interval is at or below
it, to its rounding, or where the interval holds it and the mean is at most a point above; it is missed where all of the
interval is above. The paper's figures are of ImageNet with the network itself; ours, where it is not said otherwise, of
Tiny ImageNet with `alexnet64`. Rows marked quick are short runs on a part of the data, which show that the command
works and decide nothing. Points are of error, positive where the paper's choice is the better one.

| claim | the paper | ours | verdict |
| --- | --- | --- | --- |"""
