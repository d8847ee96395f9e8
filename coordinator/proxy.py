"""The configuration of nginx in front of the coordinator: what partners and people can reach.

Flower's SuperLink carries all its APIs on one port and authenticates partners on one of them only,
so whoever reaches that port can list, start and take over runs. The proxy lets through the exact
methods and paths that a party's node uses, spelled in one way; every other request gets 404. The
coordinator's own people have a server of their own, on another port.

The folder it is written to is whole: an operating system can give it to a user of nginx's own.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from jinja2 import Environment, PackageLoader, StrictUndefined

from coordinator.proxied import PARTY_ROUTES
from coordinator.settings import CoordinatorSettings
from privacy.errors import CertificateError, ConfigError
from privacy.hosting.certificates import check_certificate, create_server_certificate
from privacy.identity import obtain_secret, write_secret

# What Flower 1.41's SuperNode calls, each as POST /v1/fleet/NAME.
FLEET_ACTIONS: Final = (
    "register-node",
    "activate-node",
    "deactivate-node",
    "unregister-node",
    "send-node-heartbeat",
    "pull-messages",
    "push-messages",
    "get-run",
    "get-fab",
    "push-object",
    "pull-object",
    "confirm-message-received",
)
MAIN_FILE: Final = "nginx.conf"
SECRET_FILE: Final = "secret.conf"  # noqa: S105  its name
_RENEW_BEFORE = timedelta(days=30)
# What would end a quoted word of nginx's or begin a variable in it.
_UNQUOTABLE = re.compile(r'["$\\\x00-\x1f]')


@dataclass(frozen=True)
class ProxyFiles:
    """A written configuration: `nginx -p folder -c nginx.conf`. `expires`: the certificate that
    partners see."""

    folder: Path
    main: Path
    expires: datetime


def write_proxy_config(settings: CoordinatorSettings, folder: Path | None = None) -> ProxyFiles:
    """Write everything that nginx needs into `folder` (default HOME/proxy), replacing the old.

    The certificate for partners is by the federation's own authority; it is kept while it is good
    for another 30 days and names the proxy. Before [proxy] names one, the coordinator's host stands
    for it. Raises ConfigError, naming the setting, for a file that is missing or cannot be named.
    """
    folder = folder or settings.proxy_folder
    proxy = settings.proxy
    name = proxy.name or settings.host
    text = _render(settings, folder, name)
    partners_ca = _readable(settings, "partners_ca", proxy.partners_ca)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        (folder / "temp").mkdir(mode=0o700, exist_ok=True)
        expires = _certificate(settings, folder, [name, proxy.people_name or name])
        (folder / "ca.crt").write_bytes(settings.ca_certificate.read_bytes())
        if partners_ca is not None:
            (folder / "partners-ca.crt").write_bytes(partners_ca)
        shown = f'proxy_set_header Fedtags-Proxy "{read_proxy_secret(settings).decode()}";\n'
        (folder / SECRET_FILE).unlink(missing_ok=True)
        write_secret(folder / SECRET_FILE, shown.encode())
        (folder / MAIN_FILE).write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"{error.filename or folder} cannot be written or read ({error.strerror}); the proxy's "
            "configuration is not complete"
        ) from error
    return ProxyFiles(folder, folder / MAIN_FILE, expires)


def read_proxy_secret(settings: CoordinatorSettings) -> bytes:
    """What the proxy shows the control plane (64 hexadecimal digits); made when it is not there."""
    return obtain_secret(settings.proxy_secret).hex().encode("ascii")


def _render(settings: CoordinatorSettings, folder: Path, name: str) -> str:
    proxy = settings.proxy
    people_name = proxy.people_name or name
    environment = Environment(
        loader=PackageLoader("coordinator", "proxy_templates"),
        undefined=StrictUndefined,
        autoescape=False,  # noqa: S701  not HTML; every value is checked below or by the settings
        keep_trailing_newline=True,
    )
    return environment.get_template("nginx.conf.jinja").render(
        federation=settings.federation,
        folder=folder,
        fleet=FLEET_ACTIONS,
        party_routes=PARTY_ROUTES,
        superlink=f"{_bracketed(settings.host)}:{settings.superlink.port}",
        control=f"{_bracketed(settings.host)}:{settings.control.port}",
        listen=_bracketed(proxy.listen),
        name=_bracketed(name),
        partners_port=proxy.partners_port,
        partners_ca=bool(proxy.partners_ca),
        people_name=_bracketed(people_name),
        people_hosts=sorted({_bracketed(people_name), "localhost", "127.0.0.1"}),
        people_port=proxy.people_port,
        people_certificate=_named(settings, "people_certificate", proxy.people_certificate),
        people_key=_named(settings, "people_key", proxy.people_key),
    )


def _certificate(settings: CoordinatorSettings, folder: Path, names: list[str]) -> datetime:
    certificate, key = folder / "partners.crt", folder / "partners.key"
    try:
        for one in names:
            expires = check_certificate(certificate, one, settings.ca_certificate)
        if key.exists() and expires - datetime.now(UTC) > _RENEW_BEFORE:
            return expires
    except CertificateError:
        pass  # there is none, or it is not for these names: another is made
    create_server_certificate(
        certificate, key, settings.ca_certificate, settings.ca_key, list(dict.fromkeys(names))
    )
    return check_certificate(certificate)


def _named(settings: CoordinatorSettings, setting: str, given: str) -> str:
    """A file as nginx.conf names it; by default the one for partners, of the same name there."""
    if not given:
        return "partners.crt" if setting.endswith("certificate") else "partners.key"
    path = (settings.home / given).absolute()
    if _UNQUOTABLE.search(str(path)):
        raise ConfigError(f"proxy.{setting}: move the file; nginx cannot be told this path")
    return f'"{path}"'


def _readable(settings: CoordinatorSettings, setting: str, given: str) -> bytes | None:
    if not given:
        return None
    try:
        return (settings.home / given).read_bytes()
    except OSError as error:
        raise ConfigError(f"proxy.{setting}: {given} cannot be read ({error.strerror})") from error


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
