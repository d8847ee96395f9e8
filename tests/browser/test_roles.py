"""The console in a real browser, as operator, marketer, reviewer and administrator use it."""

from __future__ import annotations

import re

import httpx
import pytest
from playwright.sync_api import expect

from models.plan import plan_digest

from .acting import PATHS, look_up, menu, row, sign_in
from .conftest import Console, Open, Picture
from .party_home import FIRST, LATER, PASSWORD, WAITING
from .reading import assert_readable

# The operator ------------------------------------------------------------------------------------


def test_an_operator_reads_a_waiting_plan_and_approves_it(visit: Open, picture: Picture) -> None:
    page = visit("olivia")
    expect(page.get_by_role("heading", level=1)).to_have_text("Home")
    expect(page.locator("main")).to_contain_text("3 of 3 members' fingerprints confirmed")
    picture(page, "home")
    page.get_by_role("link", name="Open the approvals").click()
    waiting = page.get_by_role("table", name="The newest question first")
    expect(waiting).to_contain_text("market-churn-weekly")
    picture(page, "approvals")
    page.goto(f"/approvals/{plan_digest(LATER)}")
    picture(page, "plan")
    page.get_by_role("heading", name="What is different").scroll_into_view_if_needed()
    page.get_by_role("heading", name="The data it touches").scroll_into_view_if_needed()
    picture(page, "plan-differences")
    page.goto("/approvals")
    waiting.get_by_role("link", name="market-churn", exact=True).click()
    assert plan_digest(WAITING) in page.url
    assert row(page, "training.rounds") == "training.rounds 2 3"
    assert row(page, "privacy.epsilon") == "privacy.epsilon 0.5 0.6"
    main = page.locator("main")
    for words in (
        "Nobody has decided about it yet.",
        "for one customer at this party, at most",
        "after this run",
        "client_no (customer)",
        "update of a round",
        "differentially private noise was added, and its ε is in the ledger",
    ):
        expect(main).to_contain_text(words)
    page.get_by_label("Reason").fill("reviewed with legal on Monday")
    page.get_by_role("button", name="Approve this plan").click()
    expect(page.get_by_role("status")).to_contain_text("You approved the plan.")
    expect(main).to_contain_text("Runs left: 1")
    page.goto("/ledger")
    line = row(page, "reviewed with legal on Monday")
    assert "olivia approved 1 run of plan market-churn" in line
    assert "signed by this party" in line


def test_a_decision_needs_a_reason_and_says_where_it_is_missing(visit: Open) -> None:
    page = visit("olivia")
    page.goto(f"/approvals/{plan_digest(LATER)}")
    page.locator("form[action^='/approvals/']").evaluate("form => form.noValidate = true")
    page.get_by_role("button", name="Refuse this plan").click()
    summary = page.get_by_role("alert")
    expect(summary).to_contain_text("Say why; the reason stays in the ledger.")
    assert page.title().startswith("Please correct")
    summary.get_by_role("link").click()
    expect(page.get_by_label("Reason")).to_be_focused()
    assert page.get_by_label("Reason").get_attribute("aria-invalid") == "true"
    assert_readable(page)


def test_two_people_do_not_decide_over_each_other(visit: Open) -> None:
    first, second = visit("olivia"), visit("ann")
    for page in (first, second):
        page.goto(f"/approvals/{plan_digest(FIRST)}")
        page.get_by_label("Reason").fill("I was faster")
    first.get_by_role("button", name="Refuse this plan").click()
    expect(first.get_by_role("status")).to_contain_text("You")
    second.get_by_role("button", name="Approve this plan").click()
    expect(second.get_by_role("heading", level=1)).to_have_text("Somebody was faster")
    second.goto(f"/approvals/{plan_digest(FIRST)}")
    expect(second.locator("main")).to_contain_text("Refused by olivia")


def test_an_operator_looks_a_customer_up_and_honours_an_opt_out(
    visit: Open, console: Console, picture: Picture
) -> None:
    customer = console.furnished.customers[0]
    page = visit("olivia")
    look_up(page, customer)
    expect(page.get_by_role("heading", level=1)).to_contain_text(customer)
    told = row(page, "Churn risk")
    assert "Joint model of bank, ecommerce, retailer" in told
    assert "run run-2026-b" in told
    assert re.search(r"ε \d\.\d{3} at δ", told)
    reasons = page.get_by_role("row").filter(has_text="Churn risk").first.get_by_role("listitem")
    assert 1 <= reasons.count() <= 3
    assert customer not in page.url
    picture(page, "customer")
    page.get_by_role("link", name="Honour an opt-out").click()
    expect(page.locator("main")).to_contain_text("This does not unlearn.")
    picture(page, "opt-out")
    page.get_by_label("Reason").fill("letter of 12 May")
    page.get_by_role("button", name="Delete the tags").click()
    expect(page.get_by_role("status")).to_contain_text("The opt-out is honoured")
    expect(page.locator("main")).to_contain_text("an opt-out is not unlearning")
    assert re.search(
        r"run-2026-b market-churn [0-9a-f]{16}… (trained|evaluated)", row(page, "run-")
    )
    assert_readable(page)
    look_up(page, customer)
    expect(page.get_by_role("heading", level=2)).to_have_text("Nothing may be read")


def test_an_operator_exports_a_segment(visit: Open) -> None:
    page = visit("olivia")
    page.goto("/segments?purpose=retention")
    link = page.get_by_role("link", name=re.compile("^Export Churn risk: .* as csv$")).first
    with page.expect_download() as waiting:
        link.click()
    assert waiting.value.suggested_filename == "churn_risk.csv"
    lines = waiting.value.path().read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("customer,")
    assert re.fullmatch(r"P\d{6}", lines[1].split(",")[0])


# The marketer ------------------------------------------------------------------------------------


def test_a_marketer_counts_segments_and_exports_none(visit: Open, picture: Picture) -> None:
    page = visit("marc")
    assert menu(page) == ["Home", "Customer", "Segments", "Tag catalogue"]
    page.goto("/segments?purpose=retention")
    table = page.get_by_role("table")
    expect(table).to_contain_text("Churn risk")
    expect(table).to_contain_text("withheld")
    counts = [one for one in table.locator("td.number").all_inner_texts() if one != "withheld"]
    assert counts
    assert all(int(one.replace(",", "")) >= 20 for one in counts)
    assert page.locator("main").get_by_role("link").count() == 0
    picture(page, "segments")
    refused = page.goto("/segments/export?tag=churn_risk&value=high&purpose=retention&form=csv")
    assert refused is not None
    assert refused.status == 403
    expect(page.get_by_role("heading", level=1)).to_have_text("Not allowed")


def test_a_marketer_sees_a_customers_tags_under_a_masked_id(visit: Open, console: Console) -> None:
    customer = console.furnished.customers[1]
    page = visit("marc")
    look_up(page, customer)
    expect(page.locator("main")).to_contain_text("The id is masked for your role.")
    expect(page.get_by_role("table").first).to_be_visible()
    assert customer not in page.content()
    assert page.get_by_role("link", name="Honour an opt-out").count() == 0
    page.goto(page.url + "/opt-out")
    expect(page.get_by_role("heading", level=1)).to_have_text("Not allowed")


@pytest.mark.parametrize("path", ["/ledger", "/approvals", "/people", "/access-log", "/budget"])
def test_a_marketer_reads_in_words_that_a_page_is_not_for_him(visit: Open, path: str) -> None:
    page = visit("marc")
    answer = page.goto(path)
    assert answer is not None
    assert answer.status == 403
    expect(page.get_by_role("heading", level=1)).to_have_text("Not allowed")
    expect(page.locator("main")).to_contain_text("ask an administrator for another role")
    assert_readable(page)


# The reviewer ------------------------------------------------------------------------------------


def test_a_reviewer_reads_every_proof(visit: Open, picture: Picture) -> None:
    page = visit("rita")
    page.goto("/budget")
    expect(page.locator("main")).to_contain_text("There is room for further runs.")
    expect(page.locator("main")).to_contain_text("The budget never starts anew.")
    assert row(page, "retention per quarter").startswith(
        "retention per quarter purpose retention quarter"
    )
    picture(page, "budget")
    page.goto("/ledger")
    expect(page.locator("main")).to_contain_text("evaluation: noised counts")
    expect(page.locator("main")).to_contain_text("agreed with legal")
    picture(page, "ledger")
    page.goto("/egress")
    assert re.search(r"\b[0-9a-f]{16}…", row(page, "update of a round"))
    page.get_by_label("Kind of message").select_option(label="receipt")
    page.get_by_role("button", name="Show").click()
    rows = page.get_by_role("table").locator("tbody tr")
    assert rows.count() == 1
    expect(rows.first).to_contain_text("run-2026-b")
    page.goto("/egress")
    picture(page, "egress")
    page.goto("/quality")
    expect(page.locator("main")).to_contain_text("of rows usable")
    assert page.get_by_role("table").locator("tbody tr").count() >= 12
    picture(page, "quality")


def test_a_reviewer_has_nothing_to_press_that_changes_anything(visit: Open) -> None:
    page = visit("rita")
    for path in (*PATHS, f"/approvals/{plan_digest(LATER)}"):
        if path == "/customer":
            continue
        page.goto(path)
        expect(page.get_by_role("heading", level=1)).not_to_have_text("Not allowed")
        assert page.locator("main form[method=post]").count() == 0, path
    page.goto("/customer")
    expect(page.get_by_role("heading", level=1)).to_have_text("Not allowed")


def test_a_reviewers_own_post_is_refused(visit: Open, console: Console) -> None:
    page = visit("rita")
    csrf = page.locator("form[action='/sign-out'] input[name=csrf]").get_attribute("value") or ""
    headers = {"Origin": console.address}
    for path, form in (
        (
            f"/approvals/{plan_digest(LATER)}",
            {"decision": "approve", "reason": "mine", "seen": "0"},
        ),
        ("/people/add", {"name": "eve", "role": "admin", "password": PASSWORD}),
        ("/people/tokens/add", {"token": "eve", "token_role": "admin", "days": ""}),
        ("/people/ann/remove", {"sure": "yes"}),
    ):
        answer = page.request.post(path, form={"csrf": csrf, **form}, headers=headers)
        assert answer.status == 403, path
        assert "Your role does not allow this" in answer.text()
    page.goto("/people")
    assert page.get_by_role("rowheader", name="eve", exact=True).count() == 0


# The administrator -------------------------------------------------------------------------------


def test_an_administrator_adds_a_person_who_cansign_in(visit: Open, picture: Picture) -> None:
    page = visit("ann")
    page.goto("/people")
    picture(page, "people")
    page.get_by_label("Name", exact=True).fill("paul")
    page.get_by_label("First password").fill("short")
    page.get_by_role("button", name="Add this person").click()
    expect(page.get_by_role("alert")).to_contain_text("a password has 12 to")
    assert page.get_by_label("Name", exact=True).input_value() == "paul"
    page.get_by_label("First password").fill(PASSWORD)
    page.get_by_label("Role", exact=True).first.select_option("reviewer")
    page.get_by_role("button", name="Add this person").click()
    expect(page.get_by_role("status")).to_have_text("The person was added.")
    paul = visit("paul")
    expect(paul.locator("header")).to_contain_text("paul · reviewer")
    paul.get_by_role("link", name="Your password").click()
    for given, told in (("wrong", "The present password is wrong."), (PASSWORD, "")):
        paul.get_by_label("Present password").fill(given)
        paul.get_by_label("New password").fill("staple " * 3)
        paul.get_by_role("button", name="Change your password").click()
        expect(paul.get_by_role("alert" if told else "status")).to_contain_text(
            told or "Your password was changed."
        )
    sign_in(paul, "paul", "staple " * 3)
    page.get_by_role("link", name="Change paul").click()
    page.get_by_role("button", name="Remove this person").click()
    expect(page.get_by_role("alert")).to_contain_text("Tick the box")
    page.get_by_label("Yes, remove paul").check()
    page.get_by_role("button", name="Remove this person").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("paul was removed")
    paul.goto("/ledger")
    expect(paul.get_by_role("heading", level=1)).to_have_text("Sign in")


def test_a_tokens_secret_is_shown_once(visit: Open, console: Console) -> None:
    page = visit("ann")
    page.goto("/people")
    page.get_by_label("Name of the token").fill("crm-export")
    page.get_by_label("Valid for days").fill("30")
    page.get_by_role("button", name="Make this token").click()
    secret = page.locator("code.secret").inner_text()
    asked = {"Authorization": f"Bearer {secret}"}
    assert httpx.get(f"{console.address}/v1/budget", headers=asked).status_code == 200
    page.reload()
    expect(page.get_by_role("heading", level=1)).to_have_text("Not found")
    page.goto("/people")
    assert secret not in page.content()
    page.get_by_role("link", name="Revoke crm-export").click()
    page.get_by_role("button", name="Revoke this token").click()
    expect(page.get_by_role("status")).to_contain_text("The token was revoked")
    assert httpx.get(f"{console.address}/v1/budget", headers=asked).status_code == 401
    page.goto("/access-log")
    assert "ann" in row(page, "create token crm-export")
