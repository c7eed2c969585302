"""The command on speed: bench."""

from __future__ import annotations

from alexnet.cli.base import Output, commands, device_option, json_option, set_option, shared


@commands.command()
@set_option
@json_option
@device_option
@shared
def bench(sets: tuple[str, ...], as_json: bool, device: str) -> int:
    """Measure how fast this machine trains, and what limits it: a minute on two cores, with made-up pictures."""
    from alexnet.training.bench import bench as run_bench
    from alexnet.training.bench import bench_table

    output = Output(as_json)
    result = run_bench(sets, device, output.say)
    output.say(bench_table(result))
    output.end(result.facts())
    return 0
