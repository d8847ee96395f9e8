"""`fedtags-sim`: the demo, experiments and benchmarks. Nothing here runs in service."""

from __future__ import annotations

import itertools
import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from privacy.errors import ConfigError
from privacy.hosting.commands import Format, run_app, say, write_json

if TYPE_CHECKING:
    from simulations.demo import FinishedDemo

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
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave everything up, with its pages, until Ctrl-C.")
    ] = False,
) -> None:
    """Train churn and propensity across three parties, every role a process of its own."""
    from simulations import demo as federation
    from simulations.summary import render, summarise

    def show(finished: federation.FinishedDemo) -> None:
        waiting = progress.add_task("comparing with each party alone", total=None)
        summary = summarise(finished)
        progress.remove_task(waiting)
        progress.stop()
        if json_file is not None:
            json_file.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
        Console(width=max(140, Console().width)).print(render(summary))

    folder = folder.resolve()
    scenario = None if data is None else federation.shops(_checked(data))
    federation.prepare_folder(folder)
    with _progress() as progress:
        scenario = scenario or federation.market(folder, customers)
        if not keep:
            show(federation.run_demo(folder, scenario, progress))
            return
        with federation.running_demo(folder, scenario, progress, consoles=True) as finished:
            show(finished)
            _keep(finished)
            progress.start()


def _keep(finished: FinishedDemo) -> None:
    """Say where the pages are and who may sign in; return after Ctrl-C or SIGTERM."""
    from simulations.demo_pages import as_text, let_people_in, wait_for_signal

    say(as_text(let_people_in(finished)))
    wait_for_signal()


experiment = typer.Typer(help="Experiments on simulated and public data.", no_args_is_help=True)
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


@experiment.command("utility")
def utility(
    data: DataOption = None,
    repetitions: Annotated[
        int, typer.Option(min=1, max=1000, help="Markets, or draws of noise on the public shops.")
    ] = 5,
    format_: FormatOption = Format.TEXT,
) -> None:
    """AUC without privacy, with small batches, with one learning rate, and with the defaults."""
    from dataclasses import asdict

    from simulations.experiments.utility import as_text
    from simulations.experiments.utility import utility as run

    folder = None if data is None else _checked(data)
    with _progress() as progress:
        task = progress.add_task("", total=None)
        rows = run(repetitions, lambda text: progress.update(task, description=text), folder)
    if format_ is Format.JSON:
        write_json([asdict(one) for one in rows])
    else:
        say(as_text(rows))


class AuditedEngine(StrEnum):
    """What `audit --engine` takes."""

    ALL = "all"
    FACTORISED = "factorised"
    OPACUS = "opacus"


class AuditedFamily(StrEnum):
    """What `audit --family` takes."""

    ALL = "all"
    LOGISTIC = "logistic"
    MLP = "mlp"
    RESIDUAL = "residual"


@app.command("audit")
def audit_engines(
    engine: Annotated[AuditedEngine, typer.Option(help="The engine that trains.")] = (
        AuditedEngine.ALL
    ),
    family: Annotated[AuditedFamily, typer.Option(help="The model family that it trains.")] = (
        AuditedFamily.ALL
    ),
    epsilon: Annotated[
        float, typer.Option(min=0.01, max=20, help="The claim: noise is calibrated to it.")
    ] = 1.0,
    canaries: Annotated[
        int, typer.Option(min=100, max=2000, help="Rows made for the audit; more see more.")
    ] = 1000,
    format_: FormatOption = Format.TEXT,
) -> None:
    """Train on canaries and try to refute the claimed epsilon. Ends with 27 if it is refuted."""
    from simulations import audit

    engines = list(audit.ENGINES) if engine is AuditedEngine.ALL else [engine.value]
    families = list(audit.FAMILIES) if family is AuditedFamily.ALL else [family.value]
    with _progress() as progress:
        task = progress.add_task("calibrating the noise", total=None)
        mechanism = audit.audit_mechanism(epsilon, canaries)
        audits = []
        for pair in itertools.product(engines, families):
            progress.update(task, description=", ".join(pair))
            audits.append(audit.audit(*pair, mechanism, canaries=canaries))
    if format_ is Format.JSON:
        write_json(audit.as_data(audits, mechanism))
    else:
        say(audit.as_text(audits, mechanism))
    audit.refuse_violations(audits)


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
    _tell(result, format_)


@bench.command("training")
def bench_training(format_: FormatOption = Format.JSON) -> None:
    """Examples per CPU-second beside plain torch and Opacus; memory; accounting. A minute."""
    from simulations.benchmarks.training import bench_training as run

    with _progress() as progress:
        result = run(progress)
    _tell(result, format_)


@bench.command("encryption")
def bench_encryption(format_: FormatOption = Format.JSON) -> None:
    """Protect, add and open 1M parameters beside NVIDIA FLARE's CKKS; memory. Two minutes."""
    from simulations.benchmarks.encryption import bench_encryption as run

    with _progress() as progress:
        result = run(progress)
    _tell(result, format_)


@bench.command("party")
def bench_party(
    scale: Annotated[
        float, typer.Option(min=0.0001, max=10, help="Of a million customers; 1 for the goals.")
    ] = 1.0,
    format_: FormatOption = Format.JSON,
) -> None:
    """A million customers: features, tags into SQLite and PostgreSQL, look-ups. Minutes."""
    from simulations.benchmarks.party import bench_party as run

    with _progress() as progress:
        result = run(progress, scale)
    _tell(result, format_)


@bench.command("control")
def bench_control(
    scale: Annotated[
        float,
        typer.Option(min=0.01, max=10, help="Of 100 parties and 1,000 runs; 1 for the goals."),
    ] = 1.0,
    format_: FormatOption = Format.JSON,
) -> None:
    """The control plane's reads at 100 a second, page weight, memory, adding. Minutes."""
    from simulations.benchmarks.control import bench_control as run

    with _progress() as progress:
        result = run(progress, scale)
    _tell(result, format_)


def _tell(result: dict[str, Any], format_: Format) -> None:
    from simulations.benchmarks.figures import as_text

    if format_ is Format.JSON:
        write_json(result)
    else:
        say(as_text(result))


def main() -> None:
    """The program's entry point."""
    run_app(app, "fedtags-sim")


if __name__ == "__main__":
    main()
