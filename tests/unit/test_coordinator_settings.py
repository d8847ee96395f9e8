"""coordinator.toml: what init writes, what is refused, and which addresses follow from it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from coordinator.settings import TEMPLATE, CoordinatorSettings, load_settings
from privacy.errors import ConfigError

HEAD = 'format = 1\nfederation = "demo"\n'
OIDC = """
[oidc]
issuer = "https://login.example"
client_id = "fedtags"
[oidc.roles]
staff = "reviewer"
"""


def written(home: Path, text: str) -> CoordinatorSettings:
    (home / "coordinator.toml").write_text(text, encoding="utf-8")
    return load_settings(home)


def template() -> str:
    return TEMPLATE.format(
        federation="demo", host="127.0.0.1", control_port=8470, superlink_port=8471
    )


def test_what_init_writes_says_the_defaults(tmp_path: Path) -> None:
    assert written(tmp_path, template()) == written(tmp_path, HEAD)


def test_every_commented_line_of_the_template_is_valid_once_it_counts(tmp_path: Path) -> None:
    text = re.sub(r"^# (?=\[|[\w-]+ = )", "", template(), flags=re.MULTILINE)
    settings = written(tmp_path, text.replace("enabled = false", "enabled = true"))
    assert settings.oidc is not None
    assert settings.oidc.roles["bank-operations"] == "party-operator:bank"
    assert settings.tracking is not None
    assert settings.alerts.secret == "file:keys/webhook.secret"
    assert settings.proxy.name == "fed.example"


def test_without_a_proxy_every_address_is_the_services_own(tmp_path: Path) -> None:
    settings = written(tmp_path, HEAD)
    assert settings.invited_control_url == settings.control_url == "https://127.0.0.1:8470"
    assert settings.invited_superlink == settings.superlink_address == "127.0.0.1:8471"
    assert settings.people_url == settings.control_url


@pytest.mark.parametrize(
    ("proxy", "invited", "people"),
    [
        ('name = "fed.example"', "fed.example:8443", "https://fed.example:8444"),
        (
            'name = "fed.example"\npeople_name = "tags.example"\npeople_port = 443',
            "fed.example:8443",
            "https://tags.example",
        ),
        ('name = "2001:db8::1"', "[2001:db8::1]:8443", "https://[2001:db8::1]:8444"),
    ],
)
def test_behind_a_proxy_invites_and_people_get_the_proxys_addresses(
    tmp_path: Path, proxy: str, invited: str, people: str
) -> None:
    settings = written(tmp_path, f"{HEAD}[proxy]\nenabled = true\n{proxy}\n")
    assert settings.invited_superlink == invited
    assert settings.invited_control_url == f"https://{invited}"
    assert settings.people_url == people
    assert settings.control_url == "https://127.0.0.1:8470"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (HEAD + "[web]\nport = 1\n", "web"),
        (HEAD + "[recovery]\nmost_restarts = -1\n", "most_restarts"),
        (HEAD + "[proxy]\nenabled = true\n", "name: needed when enabled"),
        (HEAD + "[proxy]\npartners_port = 8444\n", "people_port"),
        (HEAD + '[proxy]\npeople_key = "a"\n', "people_certificate"),
        (HEAD + '[alerts]\nurl = "https://x.example"\n', "given together"),
        (HEAD + '[alerts]\nurl = "ftp://x.example"\nsecret = "env:X"\n', "url"),
        (HEAD + '[alerts]\nsecret = "hunter2"\n', "secret"),
        (HEAD + "[alerts]\nbudget_below = 1.0\n", "budget_below"),
        (HEAD + OIDC.replace("https:", "http:"), "issuer: https"),
        (HEAD + OIDC.replace('"reviewer"', '"king"'), "party-operator:PARTY"),
        (HEAD + OIDC.replace('staff = "reviewer"', ""), "roles"),
        (HEAD + OIDC.replace("[oidc.roles]", 'scopes = ["email"]\n[oidc.roles]'), "openid"),
        (HEAD + OIDC.replace("[oidc.roles]", 'client_secret = "hunter2"\n[oidc.roles]'), "secret"),
        (HEAD + '[tracking]\nuri = "file:///tmp"\n', "uri"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_name(tmp_path: Path, text: str, named: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(named)) as caught:
        written(tmp_path, text)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "issuer", ["http://127.0.0.1:3000", "http://localhost/x", "http://[::1]:1"]
)
def test_a_provider_on_this_machine_may_speak_plain_http(tmp_path: Path, issuer: str) -> None:
    settings = written(tmp_path, HEAD + OIDC.replace("https://login.example", issuer))
    assert settings.oidc is not None
    assert settings.oidc.issuer == issuer
