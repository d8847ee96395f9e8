"""A customer's opt-out between two runs, at the real services."""

from models.plan import parse_plan

from .conftest import PLAN, LocalRun


def test_who_opted_out_is_in_no_later_cohort_and_hears_of_the_models_before(
    local: LocalRun,
) -> None:
    local.run(run_id="run-1")
    bank = local.services["bank"].node
    plan = parse_plan(PLAN)
    trained = set(bank.source.training_examples(plan, "bank").customer_ids)
    tagged = {one.customer for one in bank.store.export("churn_risk", purpose="marketing")}
    leaver, other = sorted(tagged & trained)[:2]

    left = bank.store.opt_out(leaver, person="eve", reason="asked by telephone")

    assert [one.run_id for one in left.models] == ["run-1"]
    [record] = [
        one for one in bank.store.export("churn_risk", purpose="marketing") if one.customer == other
    ]
    assert left.models[0].model_digest == record.provenance.model_digest
    assert not left.repeated
    found = bank.store.profile(leaver, purpose="marketing")
    assert (found.opted_out, found.tags) == (True, ())

    # The same records and the same consent come in again, as a nightly export would bring them.
    home = local.federation.homes["bank"]
    for name in ("events.parquet", "consent.csv"):
        for path in home.rglob(name):
            path.write_bytes(path.read_bytes())
    local.run(run_id="run-2")

    assert leaver not in bank.source.training_examples(plan, "bank").customer_ids
    tagged_now = {one.customer for one in bank.store.export("churn_risk", purpose="marketing")}
    assert tagged_now == tagged - {leaver}
    again = bank.store.opt_out(leaver, person="eve", reason="asked again")
    assert again.repeated
    assert [one.run_id for one in again.models] == ["run-1"]
    assert {one.run_id for one in bank.store.opt_out(other, person="eve", reason="too").models} == {
        "run-1",
        "run-2",
    }
