"""What deploy/ names is there, and the system takes it; metrics, readiness and logs of a node."""

from __future__ import annotations

import configparser
import json
import logging
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from typer.main import get_command

from coordinator.cli import app as coordinator_app
from coordinator.settings import ProxySettings
from party_client import logs, metrics
from party_client.cli import app
from party_client.settings import PartySettings, load_settings
from tests.servers import require_or_skip

from .conftest import LocalRun
from .test_party_service import preflight_frame

ROOT = Path(__file__).parents[2]
SYSTEMD = ROOT / "deploy" / "systemd"
UNITS = sorted([*SYSTEMD.glob("*.service"), *SYSTEMD.glob("*.timer")])
SERVICES = [path for path in UNITS if path.suffix == ".service"]
PROGRAMS = Path("/opt/fedtags/bin")
APPS = {
    str(PROGRAMS / "fedtags-party"): app,
    str(PROGRAMS / "fedtags-coordinator"): coordinator_app,
}
CONTAINERFILES = sorted((ROOT / "deploy").glob("Containerfile*"))
NGINX = "/usr/sbin/nginx"
MOST_EXPOSED = 20  # of 100, as systemd counts; without any hardening it is 92 to 96


def sections(path: Path) -> dict[str, list[tuple[str, str]]]:
    """A unit's keys in order; a key may come again."""
    found: dict[str, list[tuple[str, str]]] = {}
    current: list[tuple[str, str]] = []
    for line in path.read_text().splitlines():
        if line.startswith("["):
            current = found.setdefault(line.strip("[]"), [])
        elif line and not line.startswith("#"):
            name, _, value = line.partition("=")
            current.append((name, value))
    return found


def values(path: Path, name: str) -> list[str]:
    return [value for key, value in sections(path)["Service"] if key == name]


def check_command(program: str, words: list[str]) -> None:
    """These arguments name a command that exists, with options that it has."""
    command: click.Command = get_command(APPS[program])
    context: click.Context | None = None
    name = Path(program).name
    while isinstance(command, click.Group):
        context = command.make_context(name, list(words), parent=context)
        rest = [*context._protected_args, *context.args]
        assert rest, f"{words} names no command"
        found = command.get_command(context, rest[0])
        assert found is not None, f"there is no command {rest[0]}"
        name, command, words = rest[0], found, rest[1:]
    command.make_context(name, list(words), parent=context)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The units as on a machine where fedtags is where Python runs these tests."""
    require_or_skip("systemd-analyze", shutil.which("systemd-analyze") is not None)
    folder = tmp_path_factory.mktemp("units")
    for path in UNITS:
        text = path.read_text().replace(str(PROGRAMS), str(Path(sys.executable).parent))
        text = text.replace(NGINX, shutil.which("nginx") or "/bin/true")
        (folder / path.name).write_text(text)
    return folder


def systemd_analyze(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemd-analyze", *map(str, arguments)], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("unit", [path.name for path in UNITS])
def test_systemd_finds_nothing_wrong_with_a_unit(installed: Path, unit: str) -> None:
    ended = systemd_analyze("verify", "--man=no", installed / unit)
    said = [line for line in ended.stderr.splitlines() if unit.split(".")[0] in line]
    assert (ended.returncode, said) == (0, [])


@pytest.mark.parametrize("unit", [path.name for path in SERVICES])
def test_a_service_is_closed_as_far_as_systemd_can(installed: Path, unit: str) -> None:
    ended = systemd_analyze(
        "security", "--offline=yes", f"--threshold={MOST_EXPOSED}", installed / unit
    )
    assert ended.returncode == 0, ended.stdout[-300:]


@pytest.mark.parametrize("unit", SERVICES, ids=lambda path: path.name)
def test_every_command_of_a_unit_exists(unit: Path) -> None:
    commands = values(unit, "ExecStart")
    assert commands
    for command in commands:
        program, *words = shlex.split(command)
        if program == NGINX:
            assert words[-4:] == ["-c", "nginx.conf", "-g", "daemon off;"]
        else:
            check_command(program, words)


def test_the_nodes_unit_has_a_user_of_its_own_that_the_partys_home_is_closed_to() -> None:
    node, service = (SYSTEMD / f"fedtags-party-{one}.service" for one in ("node", "service"))
    assert values(node, "User") == ["fedtags-node"]
    assert values(service, "User") == ["fedtags"]
    assert values(service, "SupplementaryGroups") == values(node, "Group")
    assert values(service, "StateDirectoryMode") == ["0700"]
    assert values(node, "InaccessiblePaths") == ["-/var/lib/fedtags"]
    # Under a mapping of users of its own, the service would not know its peer.
    for unit in SYSTEMD.glob("fedtags-party-*.service"):
        assert values(unit, "PrivateUsers") == []
    users = (SYSTEMD / "fedtags.sysusers").read_text()
    assert set(re.findall(r"^u (\S+)", users, re.M)) == {"fedtags", "fedtags-node"}


def test_the_proxys_unit_has_a_user_of_its_own_that_the_coordinators_home_is_closed_to() -> None:
    proxy = SYSTEMD / "fedtags-coordinator-proxy.service"
    coordinator = SYSTEMD / "fedtags-coordinator.service"
    assert values(proxy, "User") == ["fedtags-proxy"]
    assert values(coordinator, "User") == ["fedtags-coordinator"]
    assert values(coordinator, "StateDirectoryMode") == ["0700"]
    assert values(proxy, "InaccessiblePaths") == ["-/var/lib/fedtags-coordinator"]
    assert values(proxy, "AmbientCapabilities") == ["CAP_NET_BIND_SERVICE"]
    users = (SYSTEMD / "fedtags-coordinator.sysusers").read_text()
    assert set(re.findall(r"^u (\S+)", users, re.M)) == {"fedtags-coordinator", "fedtags-proxy"}


def test_the_timer_starts_a_unit_that_exists() -> None:
    for timer in SYSTEMD.glob("*.timer"):
        assert timer.with_suffix(".service").exists()
        parsed = configparser.ConfigParser(interpolation=None)
        parsed.optionxform = str  # type: ignore[assignment]
        parsed.read_string(timer.read_text())
        ended = systemd_analyze("calendar", parsed["Timer"]["OnCalendar"])
        assert ended.returncode == 0, ended.stderr


# The container ---------------------------------------------------------------------------------


@pytest.fixture(params=CONTAINERFILES, ids=lambda path: path.name)
def found(request: pytest.FixtureRequest) -> list[tuple[str, str]]:
    """The instructions of one image."""
    text = request.param.read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in lines)]


def test_the_image_is_built_from_what_is_there_and_the_whole_package_gets_in(
    found: list[tuple[str, str]],
) -> None:
    copied = set()
    for word, rest in found:
        assert word in KNOWN, word
        if word == "COPY" and not rest.startswith("--from="):
            *sources, _ = rest.split()
            for source in sources:
                assert (ROOT / source).exists(), source
                copied.add(source.rstrip("/"))
    packages = re.search(r"only-include = (\[.*\])", (ROOT / "pyproject.toml").read_text())
    assert packages is not None
    assert set(json.loads(packages[1])) <= copied
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in ignored
    assert {line[1:].removesuffix("/**") for line in ignored if line.startswith("!")} == copied


KNOWN = frozenset(
    {
        *("ARG", "FROM", "WORKDIR", "COPY", "RUN", "ENV", "USER", "VOLUME", "EXPOSE"),
        *("STOPSIGNAL", "HEALTHCHECK", "ENTRYPOINT", "CMD"),
    }
)


def test_the_image_runs_as_a_user_that_is_not_root_and_holds_no_secret(
    found: list[tuple[str, str]],
) -> None:
    users = [rest for word, rest in found if word == "USER"]
    assert users
    assert all(re.fullmatch(r"[1-9]\d*:[1-9]\d*", user) for user in users)
    after = [word for word, _ in found][[word for word, _ in found].index("USER") :]
    assert "RUN" not in after
    for word, rest in found:
        if word in ("ENV", "ARG"):
            assert not re.search(r"password|secret|token|key", rest, re.I), rest
    (base,) = [rest for word, rest in found if word == "ARG"]
    assert re.fullmatch(r"PYTHON=\S+:3\.\d+-\S+", base), "a version, not whatever is newest"


def test_what_the_image_starts_exists(found: list[tuple[str, str]]) -> None:
    last = dict(found)
    (program,) = json.loads(last["ENTRYPOINT"])
    check_command(program, json.loads(last["CMD"]))
    check, *words = json.loads(last["HEALTHCHECK"].partition("CMD ")[2])
    assert check == program
    check_command(check, words)


def test_only_the_proxys_ports_of_a_coordinator_are_published() -> None:
    services = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())["services"]
    proxy = ProxySettings()
    ports = {port for one in services.values() for port in one.get("ports", ())}
    assert ports == {f"{one}:{one}" for one in (proxy.partners_port, proxy.people_port)}
    assert services["proxy"]["network_mode"] == "service:coordinator"
    assert services["proxy"]["volumes"] == ["proxy:/var/lib/fedtags-proxy"], "never the home"
    for one in services.values():
        assert one["read_only"]
        assert one["cap_drop"] == ["ALL"]
        assert one["security_opt"] == ["no-new-privileges:true"]
        assert "privileged" not in one
        assert not re.search(r"password|secret|token|key", str(one.get("environment")), re.I)
    assert (ROOT / "deploy" / services["coordinator"]["build"]["dockerfile"]).name in {
        path.name for path in CONTAINERFILES
    }
    assert re.fullmatch(r"\S+:\d+\.\d+-\S+", services["proxy"]["image"]), "a version"


# Metrics, readiness ----------------------------------------------------------------------------


@pytest.fixture
def bank(local: LocalRun) -> PartySettings:
    return load_settings(local.federation.homes["bank"])


def samples(settings: PartySettings) -> dict[tuple[str, ...], float]:
    found = {}
    for family in text_string_to_metric_families(metrics.render(settings).decode()):
        for one in family.samples:
            found[(one.name, *one.labels.values())] = one.value
    return found


def test_metrics_say_how_the_node_stands(local: LocalRun, bank: PartySettings) -> None:
    local.run()
    local.service("bank").answer(b"nonsense")
    found = samples(bank)
    assert found[("fedtags_party_runs", "finished")] == 1
    assert found[("fedtags_party_messages_total", "update")] == 2
    assert found[("fedtags_party_refused_messages_total",)] == 1
    assert found[("fedtags_party_sent_bytes_total",)] > 10_000
    used = local.service("bank").node.ledger.used()
    assert found[("fedtags_party_budget_used_ratio",)] == pytest.approx(used)
    assert found[("fedtags_party_file_sound", "ledger")] == 1
    assert found[("fedtags_party_service_up",)] == 0  # it is in this process, not on a socket
    assert found[("fedtags_party_ready",)] == 0


def test_metrics_count_no_customers_and_name_nobody(local: LocalRun, bank: PartySettings) -> None:
    """A scrape is open to more people than the console. A new metric is looked at here first."""
    local.run()
    text = metrics.render(bank).decode()
    assert {name for name, *_ in samples(bank)} <= {
        f"fedtags_party_{name}"
        for name in (
            *("up", "service_up", "supernode_up", "ready", "file_sound", "runs"),
            *("budget_epsilon", "budget_used_ratio", "messages_total"),
            *("refused_messages_total", "sent_bytes_total", "waiting_plans"),
            *("quality_check_age_seconds", "quality_usable_ratio"),
        )
    }
    assert "700" not in re.findall(r"\d+", text)
    assert set(re.findall(r"(\w+)=\"", text)) <= {"kind", "state", "file"}


def test_a_damaged_file_is_named(local: LocalRun, bank: PartySettings) -> None:
    local.service("bank").answer(preflight_frame(local))
    local.service("bank").answer(b"nonsense")
    assert samples(bank)[("fedtags_party_file_sound", "egress")] == 1
    whole = bank.egress.read_bytes()
    bank.egress.write_bytes(whole.replace(b'"decision"', b'"nothing1"'))
    assert samples(bank)[("fedtags_party_file_sound", "egress")] == 0
    assert samples(bank)[("fedtags_party_file_sound", "ledger")] == 1
    assert any("egress verify" in one for one in metrics.ready(bank))


def test_readiness_names_each_thing_that_is_missing(bank: PartySettings) -> None:
    ended = party(bank.home, "ready", "--format", "json")
    said = json.loads(ended.stdout)
    assert ended.returncode == 25
    assert not said["ready"]
    assert [one.partition(":")[0] for one in said["missing"]] == [
        "the party service is down",
        "the SuperNode is down",
    ]
    (bank.home / "federation.json").unlink()
    assert "no federation joined" in metrics.ready(bank)[0]


# Parts -----------------------------------------------------------------------------------------


def party(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).with_name("fedtags-party")
    return subprocess.run(
        [program, "--home", home, *arguments],
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )


def test_a_part_runs_by_itself_and_nothing_runs_twice(bank: PartySettings) -> None:
    started = party(bank.home, "start", "--part", "service", "--detach")
    assert started.returncode == 0, started.stderr
    try:
        assert json.loads(party(bank.home, "status", "--format", "json").stdout)["service_up"]
        assert samples(bank)[("fedtags_party_service_up",)] == 1
        for again in (["--part", "service"], []):
            ended = party(bank.home, "start", "--detach", *again)
            assert ended.returncode == 10
            assert "already running" in ended.stderr
    finally:
        stopped = party(bank.home, "stop")
    assert stopped.returncode == 0, stopped.stderr
    assert not bank.socket.exists()
    assert party(bank.home, "stop").returncode == 25


def test_a_taken_port_of_the_console_names_the_setting(bank: PartySettings) -> None:
    config = bank.home / "party.toml"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        text = config.read_text()
        assert party(bank.home, "start", "--part", "web").returncode == 10  # not enabled
        text = text.replace("enabled = false", "enabled = true")
        config.write_text(text.replace("port = 8480", f"port = {taken.getsockname()[1]}"))
        ended = party(bank.home, "start", "--part", "web")
    assert ended.returncode == 17
    assert "[web] port" in ended.stderr


def test_a_node_that_has_a_user_of_its_own_is_not_started_from_the_partys_home(
    bank: PartySettings,
) -> None:
    config = bank.home / "party.toml"
    isolation = '[isolation]\nnode_user = "nobody"\nsocket = "/nowhere/service.sock"\n'
    config.write_text(f"{config.read_text()}\n{isolation}")
    ended = party(bank.home, "start", "--part", "node")
    assert ended.returncode == 10
    assert "node-home" in ended.stderr
    config.write_text(config.read_text().replace('socket = "/nowhere/service.sock"', ""))
    ended = party(bank.home, "status")
    assert ended.returncode == 10
    assert "socket: needed with node_user" in ended.stderr


# Logs ------------------------------------------------------------------------------------------


@pytest.fixture
def root_logger() -> Iterator[logging.Logger]:
    root = logging.getLogger()
    before = root.handlers[:], root.level
    yield root
    for handler in root.handlers[:]:
        root.removeHandler(handler)
    for handler in before[0]:
        root.addHandler(handler)
    root.setLevel(before[1])


def test_json_logs_are_one_object_a_line(
    root_logger: logging.Logger, capfd: pytest.CaptureFixture[str]
) -> None:
    logs.set_up("json")
    logging.getLogger("party_client.service").warning("refused a message: %s", "two\nlines")
    (line,) = capfd.readouterr().err.splitlines()
    said = json.loads(line)
    assert (said["level"], said["logger"]) == ("WARNING", "party_client.service")
    assert said["message"] == "refused a message: two\nlines"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d{4}", said["time"])


@pytest.mark.parametrize("form", ["text", "json"])
def test_an_unforeseen_errors_text_is_not_logged_because_it_may_quote_a_row(
    root_logger: logging.Logger, capfd: pytest.CaptureFixture[str], form: logs.LogFormat
) -> None:
    logs.set_up(form)
    try:
        try:
            raise KeyError("customer-17")
        except KeyError as inner:
            raise ValueError("could not convert 'customer-17'") from inner
    except ValueError:
        logging.getLogger("a").exception("the run ended here by an error of this software")
    said = capfd.readouterr().err
    assert "customer-17" not in said
    assert "ValueError" in said
    assert "KeyError" in said
    assert "test_deploy.py" in said
    assert len(said.splitlines()) == 1 or form == "text"


def test_a_web_servers_request_lines_are_not_logged(
    root_logger: logging.Logger, capfd: pytest.CaptureFixture[str]
) -> None:
    logs.set_up("text")
    for name in ("uvicorn.access", "httpx"):
        logging.getLogger(name).info("GET /v1/customers/customer-17")
    assert capfd.readouterr().err == ""


def test_a_service_writes_json_where_its_settings_say_so(bank: PartySettings) -> None:
    config = bank.home / "party.toml"
    config.write_text(config.read_text().replace('format = "text"', 'format = "json"'))
    bank.egress.write_bytes(b"damaged\n")
    bank.egress.chmod(0o600)
    ended = subprocess.run(
        [sys.executable, "-m", "party_client.service", "--home", bank.home],
        capture_output=True,
        text=True,
        check=False,
        env=dict(os.environ),
    )
    assert ended.returncode == 21
    said = [json.loads(line) for line in ended.stderr.splitlines()]
    assert "egress.jsonl" in said[-1]["message"]
