"""The command that puts the paper's claims to the test."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from alexnet.base.errors import AlexNetError
from alexnet.cli.base import Number, Output, commands, device_option, json_option, set_option, shared
from alexnet.reproduction.claims import Claim

if TYPE_CHECKING:
    from alexnet.reproduction.everything import Everything


def _together(context: click.Context, option: click.Parameter, text: str) -> int:
    """How many processes; 0 of auto."""
    if text == "auto":
        return 0
    if not re.fullmatch("[1-9][0-9]{0,2}", text):
        raise AlexNetError(f"--together was given '{text}'; it takes a number of processes, 1 to 999, or auto.")
    return int(text)


@commands.command()
@click.argument("name", required=False)
@click.option("--data", metavar="DIR", help="A data set, or a folder that holds cifar10/ and tiny-imagenet/.")
@click.option("--all", "everything", is_flag=True, help="All claims, those first that are decided for the least work.")
@click.option("--minutes", type=Number(0, min_open=True), help="Of --all: stop then; the same command goes on.")
@click.option(
    "--together", default="1", metavar="N|auto", callback=_together,
    help="Of --all: processes that train at once; auto: as many as pay off, by trial.  [default: 1]",
)  # fmt: skip
@click.option("--list", "listed", is_flag=True, help="Of --all: say what will be trained, and train nothing.")
@click.option("--rate", type=Number(0, min_open=True), help="Of --list: images/s of alexnet64, for the time.")
@click.option("--seeds", type=click.IntRange(1), help="Networks of each kind.  [default: the claim's, mostly 3]")
@click.option("--quick", is_flag=True, help="A short run on a part of the data, to see that it works.")
@set_option
@click.option("--out", default="results", show_default=True, metavar="FOLDER", help="Where results and networks go.")
@click.option("--report", metavar="FILE.md", help="Write a page of all results in FOLDER.")
@json_option
@device_option
@shared
def reproduce(
    name: str | None, data: str | None, everything: bool, minutes: float | None, together: int, listed: bool,
    rate: float | None, seeds: int | None, quick: bool, sets: tuple[str, ...], out: str, report: str | None,
    as_json: bool, device: str,
) -> int:  # fmt: skip
    """Put a claim of the paper to the test; without NAME, list the claims and what came of them.

    Networks are kept in FOLDER/work: a run that was stopped goes on, and one that is finished is not run again.
    """
    from alexnet.reproduction import results
    from alexnet.reproduction.claims import CLAIMS, claim

    output = Output(as_json)
    if report:
        results.check_report(Path(report))
    if everything or listed:
        _check_all(name, everything, listed, together, device, rate)
        if data is None and not listed:
            raise AlexNetError("--all needs pictures; give --data DIR, which holds cifar10/ and tiny-imagenet/.")
        work = _everything(data, out, minutes, seeds, quick, sets, device, together, output)
        facts = _planned(output, work, rate or 0.0) if listed else work.run()
        if report:
            output.say(f"{report}: {results.report(Path(out), Path(report))} results")
        output.end(facts)
        return 0
    if minutes or rate or together != 1:
        raise AlexNetError("--minutes, --together and --rate are of --all; add it, or leave them out.")
    if name is None:
        if data is not None or seeds or quick or sets:
            raise AlexNetError(f"no claim was named; give one of {', '.join(CLAIMS)}.")
        if report:
            count = results.report(Path(out), Path(report))
            output.say(f"{report}: {count} results")
            output.end({"report": report, "results": count})
        else:
            _list(output, Path(out))
        return 0
    chosen = claim(name)
    if data is None:
        raise AlexNetError(f"the claim {name} needs pictures; give --data DIR, which holds {chosen.data}/ or is it.")
    facts = _one(chosen, Path(data), Path(out), seeds, quick, sets, device, output)
    if report:
        output.say(f"{report}: {results.report(Path(out), Path(report))} results")
    output.end(facts)
    return 0


def _check_all(
    name: str | None, everything: bool, listed: bool, together: int, device: str, rate: float | None
) -> None:
    """Refuse what --all or --list would not use."""
    if listed and (together != 1 or device != "auto"):
        raise AlexNetError(
            "--together and --device are for what is trained, and --list trains nothing; leave them out."
        )
    if rate and not listed:
        raise AlexNetError("--rate is of --list; add it, or leave --rate out.")
    if name is not None:
        raise AlexNetError(f"--{'all' if everything else 'list'} is of all claims; leave {name} out.")


def _one(
    chosen: Claim, data: Path, out: Path, seeds: int | None, quick: bool, sets: tuple[str, ...], device: str,
    output: Output,
) -> dict[str, Any]:  # fmt: skip
    """Put one claim to the test, and write and say what came of it."""
    from alexnet.reproduction import results
    from alexnet.reproduction.measures import measure_claim
    from alexnet.reproduction.planning import seeds_of
    from alexnet.reproduction.running import Study

    count = seeds or seeds_of(chosen, quick)
    study = Study(chosen, data, out, count, quick, sets, device, output.say, quiet=False)
    results.refuse_to_replace(study)
    output.say(f"{chosen.name} ({chosen.section}): {chosen.text}")
    outcome = measure_claim(study)
    facts = results.write(study, outcome)
    output.say("")
    for one in facts["comparisons"]:
        output.say(f"{one['name']}: {results.ours(one)}: {one['verdict']}")
    for note in facts["notes"]:
        output.say(note)
    output.say(f"the paper: {chosen.paper}; ours: {facts['verdict']}{' (quick: decides nothing)' if quick else ''}")
    output.say(f"{results.folder_of(out, chosen.name, quick)} holds runs.jsonl, result.json, figure.png and README.md")
    return facts


def _everything(
    data: str | None, out: str, minutes: float | None, seeds: int | None, quick: bool, sets: tuple[str, ...],
    device: str, together: int, output: Output,
) -> Everything:  # fmt: skip
    from alexnet.reproduction.everything import Everything

    place = None if data is None else Path(data)
    return Everything(
        place, Path(out), minutes or 0.0, seeds or 0, quick, sets, device, together, output.say, quiet=output.as_json
    )


def _planned(output: Output, work: Everything, rate: float) -> dict[str, Any]:
    from alexnet.reproduction import planning

    parts = work.left()
    for line in planning.lines(parts, rate, work.minutes):
        output.say(line)
    return {"parts": [{"claim": one.claim.name, "seeds": one.seeds, "networks": len(one.networks)} for one in parts]}


def _list(output: Output, out: Path) -> None:
    from alexnet.reproduction import results
    from alexnet.reproduction.claims import CLAIMS

    verdicts: dict[str, list[str]] = {}
    for claim, facts, _, _ in results.found(out):
        verdicts.setdefault(claim.name, []).append(facts["verdict"] + (" (quick)" if facts["quick"] else ""))
    for claim in CLAIMS.values():
        said = ", ".join(verdicts.get(claim.name, ["not run"]))
        output.say(f"{claim.name:<16} {claim.section:<14} {claim.data:<14} {said}")
        output.say(f"{'':<16} {claim.text} The paper: {claim.paper}.")
    if not verdicts:
        output.say(f"{out} holds no results; --out FOLDER lists those of another folder, --data DIR makes them.")
    known = [{"claim": c.name, "data": c.data, "verdicts": verdicts.get(c.name, [])} for c in CLAIMS.values()]
    output.end({"claims": known})
