"""What holds for every page of the party's console and for everybody who reads it."""

from __future__ import annotations

import re

import httpx
import pytest
from babel.messages.pofile import read_po
from playwright.sync_api import Page, expect

from models.plan import plan_digest
from party_client.console.menu import MENU
from party_client.console.words import FOLDER
from party_client.roles import may
from privacy.hosting.pages.languages import TRANSLATIONS
from privacy.hosting.security_headers import SECURITY_HEADERS

from .acting import PATHS, look_up, sign_in
from .conftest import Console, Open, Picture
from .party_home import PASSWORD, PEOPLE, SCRIPT, WAITING
from .reading import assert_readable, texts_of


def test_a_plan_is_refused_with_the_keyboard_alone(visit: Open) -> None:
    page = visit()
    keys = page.keyboard
    keys.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    _tab_to(page, "name")
    keys.type("olivia")
    keys.press("Tab")
    keys.type(PASSWORD)
    keys.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("Home")
    for words, heading in (
        ("Approvals", "Approvals"),
        ("market-churn-weekly", "Plan market-churn-weekly"),
        ("Go to your decision", "Plan market-churn-weekly"),
    ):
        _tab_to(page, words)
        keys.press("Enter")
        expect(page.get_by_role("heading", level=1)).to_have_text(heading)
    _tab_to(page, "reason")
    keys.type("not this quarter")
    keys.press("Tab")
    expect(page.get_by_role("button", name="Approve this plan")).to_be_focused()
    keys.press("Tab")
    keys.press("Enter")
    expect(page.get_by_role("status")).to_contain_text("You refused the plan.")


def _tab_to(page: Page, words: str) -> None:
    """Press Tab until the thing of this name or these words has the focus, and can be seen."""
    where = "e => [e.id, e.textContent.trim(), getComputedStyle(e).outlineStyle]"
    for _ in range(60):
        page.keyboard.press("Tab")
        name, text, outline = page.evaluate(f"({where})(document.activeElement)")
        if words in (name, text):
            assert outline != "none"
            return
    pytest.fail(f"Tab never reaches {words}")


@pytest.mark.parametrize(
    ("language", "width", "scheme"),
    [
        ("en-GB", 1200, "light"),
        ("en-GB", 400, "dark"),
        ("zh-CN", 1200, "dark"),
        ("zh-CN", 400, "light"),
    ],
)
def test_every_page_can_be_read_by_everybody(
    visit: Open, console: Console, language: str, width: int, scheme: str
) -> None:
    page = visit(None, language, width, scheme)
    assert_readable(page)
    sign_in(page, "ann")
    look_up_address = _found(page, console.furnished.customers[2])
    digest = plan_digest(WAITING)
    more = [
        look_up_address,
        f"{look_up_address}/opt-out",
        f"/approvals/{digest}",
        "/people/marc",
        "/password",
    ]
    for path in (*PATHS, *more, "/nothing", "/segments?dimension=behaviour&purpose=retention"):
        page.goto(path)
        page.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true })")
        assert_readable(page)
        chinese = language == "zh-CN"
        assert page.locator("html").get_attribute("lang") == ("zh-Hans" if chinese else "en")
        if chinese:
            _assert_chinese(page)


def _found(page: Page, customer: str) -> str:
    page.goto("/customer")
    page.fill("#customer", customer)
    page.select_option("#purpose", "retention")
    page.locator("main button").click()
    return page.url.split(page.url.split("/customer")[0])[1]


def _assert_chinese(page: Page) -> None:
    """No text that has a Chinese form stands in English; no English sentence at all."""
    english = set()
    for folder in (FOLDER / "translations", TRANSLATIONS):
        with (folder / "zh.po").open("rb") as source:
            english |= {m.id for m in read_po(source, locale="zh") if isinstance(m.id, str)}
    typed = {
        SCRIPT,
        "retention per quarter",  # a name in policy.toml
        "agreed with legal",
        "reviewed with legal on Monday",
        "not this quarter",
        "letter of 12 May",
        "I was faster",
    }
    for text in texts_of(page):
        if any(one in text for one in typed):
            continue
        assert text not in english - {"ε"}, (page.url, text)
        assert not re.search(r"[a-z]{2,} [a-z]{2,} [a-z]{2,}", text), (page.url, text)


def test_the_language_is_chosen_on_the_page_and_stays(visit: Open, picture: Picture) -> None:
    page = visit("rita")
    page.goto("/egress?kind=receipt")
    page.get_by_role("button", name="中文").click()
    assert page.url.endswith("/egress?kind=receipt")
    expect(page.get_by_role("heading", level=1)).to_have_text("出站")
    page.goto("/")
    expect(page.get_by_role("heading", level=1)).to_have_text("首页")
    page.get_by_role("link", name="审批", exact=True).click()
    picture(page, "approvals-zh")
    page.get_by_role("button", name="English").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Approvals")


def test_what_others_wrote_is_shown_as_text(visit: Open) -> None:
    page = visit("ann")
    page.goto(f"/approvals/{plan_digest(WAITING)}")
    expect(page.locator("main")).to_contain_text(SCRIPT)
    look_up(page, SCRIPT)
    assert page.title() != "owned"
    assert page.locator("main img, main script").count() == 0
    page.goto(f"/egress?run={SCRIPT}&kind={SCRIPT}")
    assert page.get_by_label("Run", exact=True).input_value() == SCRIPT[:64]
    page.goto("/people")
    page.get_by_label("Name", exact=True).fill(SCRIPT[:60])
    page.get_by_label("First password").fill(PASSWORD)
    page.get_by_role("button", name="Add this person").click()
    expect(page.get_by_role("alert")).to_contain_text("1 to 63 lower-case letters")
    assert page.locator("main img, main script").count() == 0
    assert page.title() != "owned"


def test_a_session_that_has_ended_is_said_in_words(visit: Open) -> None:
    page = visit("olivia")
    page.goto(f"/approvals/{plan_digest(WAITING)}")
    page.get_by_label("Reason").fill("too late")
    page.context.clear_cookies()
    page.get_by_role("button", name="Refuse this plan").click()
    expect(page.get_by_role("status")).to_contain_text("so nothing was changed")
    page.goto("/ledger?page=1")
    expect(page.get_by_role("status")).to_contain_text("A session ends after 30 minutes")
    sign_in(page, "olivia")
    assert page.url.endswith("/ledger?page=1")
    assert "too late" not in page.content()


def test_a_wrong_password_says_nothing_about_the_name(visit: Open) -> None:
    page = visit()
    for name in ("olivia", "nobody"):
        page.fill("#name", name)
        page.fill("#password", "wrong " * 3)
        page.keyboard.press("Enter")
        expect(page.get_by_role("alert")).to_contain_text("The name or the password is wrong.")
        assert page.locator("#password").input_value() == ""
    assert_readable(page)


def test_signing_out_ends_the_session(visit: Open) -> None:
    page = visit("rita")
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("status")).to_have_text("You are signed out.")
    page.go_back()
    page.goto("/budget")
    expect(page.get_by_role("heading", level=1)).to_have_text("Sign in")


# Without a browser's good manners ----------------------------------------------------------------


def test_a_form_of_another_site_or_session_changes_nothing(visit: Open, console: Console) -> None:
    page = visit("olivia")
    digest = plan_digest(WAITING)
    form = {"decision": "refuse", "reason": "forged", "seen": "0"}
    csrf = page.locator("form[action='/sign-out'] input[name=csrf]").get_attribute("value") or ""
    for headers, token in (
        ({"Origin": "https://evil.example"}, csrf),
        ({"Sec-Fetch-Site": "cross-site"}, csrf),
        ({"Origin": console.address}, "0" * 64),
        ({"Origin": console.address}, ""),
    ):
        answer = page.request.post(
            f"/approvals/{digest}", form={"csrf": token, **form}, headers=headers
        )
        assert answer.status == 403
        assert "This form is out of date" in answer.text()
    page.goto("/ledger")
    assert "forged" not in page.content()


def test_every_answer_forbids_scripts_frames_and_keeping(console: Console) -> None:
    for path in ("/sign-in", "/nothing", "/static/pages.css"):
        headers = httpx.get(console.address + path).headers
        for name, value in SECURITY_HEADERS.items():
            assert headers[name] == value
    assert httpx.get(console.address + "/sign-in").headers["cache-control"] == "no-store"


def test_an_unknown_path_of_the_api_is_a_problem_and_no_page(console: Console) -> None:
    answer = httpx.get(f"{console.address}/v1/nothing")
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"


def test_a_huge_form_is_refused(console: Console) -> None:
    body = "name=" + "x" * 10_000_000
    kind = {"Content-Type": "application/x-www-form-urlencoded"}
    answer = httpx.post(f"{console.address}/sign-in", content=body, headers=kind)
    assert answer.status_code == 413


def test_a_role_opens_exactly_its_pages(visit: Open) -> None:
    for name, role in PEOPLE.items():
        page = visit(name)
        for _, entries in MENU:
            for entry in entries:
                answer = page.request.get(entry.path)
                allowed = entry.permission is None or may(role, entry.permission)
                assert answer.status == (200 if allowed else 403), (name, entry.path)
