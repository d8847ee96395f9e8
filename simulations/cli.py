"""`fedtags-sim`: the demo, experiments and benchmarks. Nothing here runs in service."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from privacy.errors import ConfigError
from privacy.hosting.commands import Format, run_app, say, write_json

app = typer.Typer(
    help="Federations on one machine: the demo, experiments, benchmarks.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
FormatOption = Annotated[Format, typer.Option("--format", help="text, or json for scripts.")]
DataOption = Annotated[
    Path | None,
    typer.Option(help="Folder of the public data sets; without it, the simulated market."),
]


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
    )


def _checked(data: Path) -> Path:
    if not data.is_dir():
        raise ConfigError(f"data folder {data} does not exist; give the folder of the data sets")
    return data.resolve()


@app.command()
def demo(
    data: DataOption = None,
    folder: Annotated[
        Path, typer.Option(help="Where the demo's homes go; an earlier demo's is replaced.")
    ] = Path("demo"),
    customers: Annotated[
        int, typer.Option(min=300, max=1_000_000, help="Simulated customers at each party.")
    ] = 5000,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the summary to this file, too.")
    ] = None,
) -> None:
    """Train churn and propensity across three parties, every role a process of its own."""
    from simulations import demo as federation
    from simulations.summary import render, summarise

    folder = folder.resolve()
    scenario = None if data is None else federation.shops(_checked(data))
    federation.prepare_folder(folder)
    with _progress() as progress:
        scenario = scenario or federation.market(folder, customers)
        finished = federation.run_demo(folder, scenario, progress)
        waiting = progress.add_task("comparing with each party alone", total=None)
        summary = summarise(finished)
        progress.remove_task(waiting)
    if json_file is not None:
        json_file.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    Console(width=max(140, Console().width)).print(render(summary))


experiment = typer.Typer(help="Experiments on public data.", no_args_is_help=True)
app.add_typer(experiment, name="experiment")


@experiment.command("small-partner")
def small_partner(
    data: Annotated[Path, typer.Option(help="Folder of the public data sets.")],
    repetitions: Annotated[int, typer.Option(min=1, max=1000, help="Draws per shop.")] = 20,
    format_: FormatOption = Format.TEXT,
) -> None:
    """One public shop with only 200 customers: alone, or with the other two."""
    from dataclasses import asdict

    from simulations.demo import plan_file
    from simulations.experiments.small_partner import small_partner as run

    with _progress() as progress:
        task = progress.add_task("", total=None)
        results = {
            name: run(
                _checked(data),
                plan_file(name),
                repetitions,
                lambda text: progress.update(task, description=text),
            )
            for name in ("shops-churn", "shops-propensity")
        }
    if format_ is Format.JSON:
        write_json({name: [asdict(one) for one in rows] for name, rows in results.items()})
        return
    for name, rows in results.items():
        say(f"{name}: medians over {repetitions} draws of 200 customers")
        for one in rows:
            say(
                f"  {one.shop:10} alone {one.alone_auc:.3f}  joint {one.joint_auc:.3f}  "
                f"joint better in {one.wins} of {one.repetitions}"
            )


bench = typer.Typer(
    help="Benchmarks: one JSON object with figures and goals.", no_args_is_help=True
)
app.add_typer(bench, name="bench")


@bench.command("round")
def bench_round(
    pairs: Annotated[int, typer.Option(min=1, max=100, help="Interleaved pairs.")] = 15,
    folder: Annotated[
        Path, typer.Option(help="Where the federation's homes go; an earlier one is replaced.")
    ] = Path("demo"),
    format_: FormatOption = Format.JSON,
) -> None:
    """Seconds of a full round and of an empty Flower message to the same nodes."""
    from simulations.benchmarks.round import bench_round as run

    with _progress() as progress:
        result = run(folder.resolve(), pairs, progress)
    if format_ is Format.JSON:
        write_json(result)
        return
    for name, value in result["figures"].items():
        say(f"{name:16} {value:.3f}")
    for name, goal in result["goals"].items():
        say(f"goal {name}: {goal['goal']} {'met' if goal['met'] else 'not met'}")


def main() -> None:
    """The program's entry point."""
    run_app(app, "fedtags-sim")


if __name__ == "__main__":
    main()
