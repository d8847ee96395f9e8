"""The commented coordinator.toml that init writes; braces are filled in by `setup`."""

TEMPLATE = """\
# fedtags coordinator: settings. Restart after a change (fedtags-coordinator stop, then start).
format = 1

# The federation's name, shown to every partner in its invite.
federation = "{federation}"

# The address that every service binds and that invites name. Flower's SuperLink authenticates
# partners on its Fleet API only: keep the loopback address unless a TLS proxy that lets nothing
# but /v1/fleet/ through stands in front.
host = "{host}"

[control]
# The control plane's API (HTTPS): enrolment, plans, runs.
port = {control_port}

[superlink]
# Flower's SuperLink (TLS), which the parties' SuperNodes connect to.
port = {superlink_port}

[invitations]
# How long an invite file can be used, in hours.
valid_hours = 72

[database]
# Runs, parties, people and token hashes. A relative SQLite path is relative to this file's folder;
# PostgreSQL is postgresql+psycopg://user@host/name.
url = "sqlite:///coordinator.db"

[diagnostics]
# After every exchange of a run, also send an empty message to the same nodes and record how long
# that takes: it tells a slow network from slow work. Costs one more message each.
time_empty_messages = false

[recovery]
# How often in a row, without any progress, a run whose process ended is taken up again before it
# counts as failed. 0: never.
most_restarts = 5

[log]
# "text", or "json" for a log collector.
format = "text"

# What people are warned of: a party with less than this share of its lifetime budget left, one
# that was not heard of, a run without progress, an audit log that does not verify.
[alerts]
budget_below = 0.10
silent_minutes = 60
stalled_minutes = 120
audit_minutes = 60
# Alerts can also be sent, signed. Here and below a secret is given by reference: "file:PATH",
# "env:NAME" or "keyring:SERVICE/USER".
# url = "https://pager.example/hooks/fedtags"
# secret = "file:keys/webhook.secret"

[proxy]
# A proxy in front of both services; `proxy write` makes its configuration. Partners reach it by
# name and partners_port, this coordinator's people by people_name and people_port.
enabled = false
# name = "fed.example"
# people_name = "fedtags.example"
partners_port = 8443
people_port = 8444

# People sign in at your organisation's OpenID Connect provider; passwords work besides. Register
# https://YOUR ADDRESS/v1/session/oidc/callback there. Whoever has none of these roles is refused.
# [oidc]
# issuer = "https://login.example/realms/staff"
# client_id = "fedtags"
# client_secret = "file:keys/oidc.secret"
# role_claim = "groups"
# [oidc.roles]
# fedtags-admins = "admin"
# modelling = "data-scientist"
# compliance = "reviewer"
# bank-operations = "party-operator:bank"

# Released figures of runs are also sent to an MLflow server of yours.
# [tracking]
# uri = "https://mlflow.example"
"""
