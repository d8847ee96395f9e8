"""One party's node: data, policy, training, ledger, profile store."""
