"""Every page of the coordinator at its address, as one application below the API."""

from __future__ import annotations

from pathlib import Path

from fastapi import FastAPI
from starlette.routing import BaseRoute

from coordinator.dashboard import federation, pictures, proofs, runs
from coordinator.dashboard.launch import Launch
from coordinator.dashboard.site import Site, dashboard_site
from coordinator.desk import Desk
from coordinator.settings import CoordinatorSettings
from privacy.hosting.gate import Gate
from privacy.hosting.pages import mounting
from privacy.hosting.pages.routing import change, read

STATIC = Path(__file__).parent / "static"


def mount(app: FastAPI, desk: Desk, gate: Gate, settings: CoordinatorSettings) -> None:
    """Put the pages under "/" of `app`. Called last: what is routed before it stays as it is."""
    site = dashboard_site(settings, desk, gate)
    launch = Launch(settings.requester_key)
    mounting.mount(app, site, [*_routes(site), *_launch_routes(site, launch)], STATIC)


def _routes(site: Site) -> list[BaseRoute]:
    return [
        read(site, "/", federation.home),
        read(site, "/alerts", federation.alerts),
        read(site, "/parties", federation.parties),
        change(site, "/parties/invite", federation.invite),
        read(site, "/parties/invited/{handle}", federation.invited),
        read(site, "/parties/{name}", federation.party),
        change(site, "/parties/{name}/remove", federation.remove_party),
        read(site, "/parties/{name}/budget.svg", pictures.budget),
        read(site, "/runs", runs.runs),
        read(site, "/runs/{run}", runs.run),
        read(site, "/runs/{run}/part", runs.run_part),
        read(site, "/runs/{run}/plan", runs.plan),
        change(site, "/runs/{run}/stop", runs.stop),
        change(site, "/runs/{run}/resume", runs.resume),
        read(site, "/runs/{run}/exchanges.svg", pictures.exchanges),
        read(site, "/runs/{run}/figures.svg", pictures.figures),
        read(site, "/runs/{run}/evidence", proofs.take_pack),
        read(site, "/compare", runs.compare),
        read(site, "/compare/figure.svg", pictures.compared),
        read(site, "/privacy", proofs.privacy),
        read(site, "/evidence", proofs.evidence),
        read(site, "/audit", proofs.audit),
        read(site, "/tags", proofs.tags),
    ]


def _launch_routes(site: Site, launch: Launch) -> list[BaseRoute]:
    return [
        read(site, "/launch", launch.page),
        change(site, "/launch/write", launch.write),
        change(site, "/launch/check", launch.check),
        change(site, "/launch/save", launch.save),
        change(site, "/launch/submit", launch.submit),
    ]
