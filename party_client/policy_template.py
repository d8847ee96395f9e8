"""The commented policy.toml that init writes."""

from __future__ import annotations

import json
from collections.abc import Iterable

TEMPLATE = """\
# fedtags party: policy. What may be computed on this party's customers, for whom, and at what
# cost. Everything not named here is refused. Restart the service after a change
# (fedtags-party stop, then start).
format = 1

# Which coordinators may send a plan: fingerprints of their keys. `join` fills an empty list with
# that of the invite's coordinator. An empty list refuses everyone.
coordinators = {coordinators}

# Who may request a run: fingerprints of the requesters' keys, as confirmed at join, which
# fills an empty list with those of the invite. An empty list refuses everyone.
requesters = {requesters}

# What for: a plan names its purpose, and what this party's customers consented to decides which
# may stand here.
purposes = ["retention", "marketing"]

# Not in any list, because no list can allow them: attributes of health, religion, political
# opinion, ethnicity, sexual life, union membership, precise location and minors. A plan that names
# one as a feature, a label or a tag, in English or Chinese, is refused ("forbidden"), and so is
# every plan while party.toml maps a column of such a name.

# Kinds of task: "churn", "propensity", and "label" (a label column of a feature table).
tasks = ["churn", "propensity"]

# Groups of the event catalogue that a model may see.
feature_groups = {groups}

# For a feature table: names of the columns, the label among them, that a plan may use.
feature_columns = []

# Model families: "logistic", "mlp", "residual".
model_families = ["logistic", "mlp"]

# Tags that a run may write into the profile store.
tags = {tags}

# The most epsilon that one run may ask: training plus evaluation.
max_epsilon_per_run = 2.0

# The fewest parties, this one included, whose keys this party has confirmed.
minimum_cohort = 3

# With two parties the sum gives away this party's update to the other one: only differential
# privacy protects it then.
accept_two_party = false

# With fewer eligible customers no run is accepted. This number is private: the refusal says only
# "data".
minimum_customers = 0

# A preflight opens the data to see whether they can be used at all, and a refusal tells one bit
# about them that no epsilon covers. After so many runs in 24 hours that gave their reservation
# back, every plan is refused ("budget") before data are opened.
max_refunds_per_day = 20

# "automatic": a plan within this policy and the budget runs without asking a person. "person": it
# waits, refused with the code "approval", until somebody here approves it (fedtags-party plan list,
# or the console) and the requester submits it again.
approval = "automatic"
# With "person": how many runs of that plan one approval admits, and for how many days. It ends
# earlier if the names or types of the source's columns change.
approval_runs = 1
approval_days = 30

# Demands on the data themselves. Private like minimum_customers, so this too refuses with "data"
# alone. minimum_usable_share: of the rows read, those that are not set aside. require: rules that
# must pass, by the names that `fedtags-party check` prints.
[quality]
minimum_usable_share = 0.0
require = []

# What the coordinator is told about this party: at each start, after runs and decisions, and every
# 15 minutes. Without this section nothing is told. None of it is computed from customers' data or
# counts them; `fedtags-party disclosure show` prints exactly what would be sent.
# status: version and bundle of the software, the public size, where the ledger ends.
# budget: the lifetime budget, what is spent of it, and how many more runs like the last one fit.
# limits: the sub-limits below, by your own names for them.
# approvals: hashes of the plans that wait for a person here, and of those that were approved.
# tags: whether each joint tag is listed in this party's catalogue.
# models: run and hash of each model that this party keeps.
# egress: how many messages and bytes have left for each run.
[disclosure]
status = true
budget = true
limits = false
approvals = true
tags = false
models = true
egress = true

[budget]
# For the lifetime of this ledger, over all runs: epsilon at this delta, for one customer at this
# party. delta is at most 1 / (10 * public_size). A budget that is raised each year is a policy,
# not mathematics; the ledger records every change.
epsilon = 8.0
delta = {delta}

# Sub-limits, as many as you like: a run that would pass one of them is refused, and the refusal
# names it. They are policy, not mathematics: a window that starts anew (UTC) forgets what was spent
# before it, while the lifetime budget above forgets nothing.
# [[budget.limit]]
# name = "all per year"
# epsilon = 4.0
# window = "year"         # "lifetime" (if left out), "year", "quarter" or "month"
#
# [[budget.limit]]
# name = "marketing per quarter"
# epsilon = 3.0
# purpose = "marketing"   # runs of this purpose only; plan = "NAME": runs of this plan only
# window = "quarter"
#
# [[budget.limit]]
# name = "retention ever"
# epsilon = 6.0
# purpose = "retention"
"""


def written(names: Iterable[str]) -> str:
    """A list of names as TOML writes it."""
    return json.dumps(list(names))
