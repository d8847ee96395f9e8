"""The coordinator's pages in a real browser, as the people of each role use them."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from babel.messages.pofile import read_po
from playwright.sync_api import Browser, Page, expect

from coordinator.dashboard.menu import MENU
from coordinator.dashboard.words import FOLDER
from coordinator.evidence_verify import verify
from models.plan import plan_digest
from privacy.hosting.pages.languages import TRANSLATIONS
from tests.integration.coordinator_asking import PASSWORD, Asked

from .acting import menu, row, sign_in
from .conftest import Watched
from .dashboard_home import SCRIPT, furnished
from .reading import assert_readable, texts_of

PATHS = [entry.path for _, entries in MENU for entry in entries]
Open = Callable[..., Page]


@pytest.fixture(scope="module")
def dashboard(chromium: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Asked]:
    with furnished(tmp_path_factory.mktemp("dashboard")) as api:
        yield api


# `dashboard` first: it asks by an event loop of its own, which Playwright's would not allow.
@pytest.fixture
def visit(dashboard: Asked, browser: Browser) -> Iterator[Open]:
    """Open a window, signed in as `name` if given; what it did is looked at when the test ends."""
    address = dashboard.coordinator.settings.control_url
    watched = Watched(address)
    contexts = []

    def open_window(
        name: str | None = None, language: str = "en-GB", width: int = 1200, scheme: str = "light"
    ) -> Page:
        context = browser.new_context(
            base_url=address,
            viewport={"width": width, "height": 900},
            locale=language,
            color_scheme=scheme,  # type: ignore[arg-type]
            ignore_https_errors=True,
        )
        context.set_default_timeout(60_000)
        contexts.append(context)
        page = context.new_page()
        watched.watch(page)
        page.goto("/")
        if name is not None:
            sign_in(page, name, PASSWORD)
        return page

    yield open_window
    for context in contexts:
        context.close()
    watched.check()


@pytest.fixture
def picture() -> Callable[[Page, str], None]:
    """Save the window as docs show it: FEDTAGS_SCREENSHOTS=docs/images pytest tests/browser."""
    folder = os.environ.get("FEDTAGS_SCREENSHOTS")

    def take(page: Page, name: str) -> None:
        if folder:
            path = Path(folder) / f"dashboard-{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            page.screenshot(path=path)

    return take


# The data scientist ------------------------------------------------------------------------------


def test_a_data_scientist_launches_a_run_and_watches_it(
    visit: Open, dashboard: Asked, picture: Callable[[Page, str], None]
) -> None:
    page = visit("dora")
    expect(page.locator("main")).to_contain_text("0 of 3 connected")
    picture(page, "home")
    page.get_by_role("link", name="Launch one").click()
    page.get_by_label("Name of the plan").fill("autumn-churn")
    page.get_by_label("In one sentence").fill("Who will not come back")
    page.get_by_label("Purpose").fill("retention")
    page.get_by_label("ε for training").fill("0.7")
    picture(page, "launch")
    page.get_by_role("button", name="Write the plan and see its cost").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Check the plan")
    text = page.get_by_label("TOML").input_value()
    assert 'name = "autumn-churn"' in text
    assert "epsilon = 0.7" in text
    cells = page.locator("#cost-table tr", has_text="bank").locator("td").all_inner_texts()
    assert float(cells[2]) > 0.7  # training and evaluation together
    assert cells[4] == "34.0 %"
    assert float(cells[5].removesuffix(" %")) > 34.0
    picture(page, "cost")
    page.get_by_role("button", name="Sign and start this run").click()
    expect(page.get_by_role("status")).to_contain_text("The run was started.")
    run_id = page.url.split("/runs/")[1].split("?")[0]
    record = dashboard.coordinator.control.runs.get(run_id)
    assert record.plan_digest == plan_digest(text.encode())
    assert record.requester_public == _requester(dashboard)
    recorder = dashboard.coordinator.control.runs.recorder(run_id)
    recorder.phase("round", 2, 6)
    recorder.exchange("round", 2, 3.5, {"bank": 20_000}, {"bank": 40_000})
    expect(page.locator("#live")).to_contain_text("round 2")  # without loading the page again
    expect(page.locator("#steps-table")).to_contain_text("20 kB")
    picture(page, "run")
    page.get_by_label("Yes, stop this run").check()
    page.get_by_label("At once").check()
    page.get_by_role("button", name="Stop", exact=True).click()
    expect(page.get_by_role("status")).to_contain_text("The run was ended at once.")
    expect(page.locator("#live")).to_contain_text("Somebody stopped the run.")
    assert dashboard.coordinator.control.runs.get(run_id).state == "stopped"


def _requester(dashboard: Asked) -> bytes:
    from privacy.identity import SigningKey

    return SigningKey.load(dashboard.coordinator.settings.requester_key).public


def test_a_wrong_form_says_what_to_correct_and_keeps_what_was_typed(visit: Open) -> None:
    page = visit("dora")
    page.goto("/launch")
    page.locator("form[action='/launch/write']").evaluate("form => form.noValidate = true")
    page.get_by_label("Purpose").fill("retention")
    page.get_by_label("ε for training").fill("99")
    page.get_by_role("button", name="Write the plan and see its cost").click()
    summary = page.get_by_role("alert")
    expect(summary).to_contain_text("This is needed.")
    expect(summary).to_contain_text("Use a number within the range.")
    expect(page.get_by_label("Purpose")).to_have_value("retention")
    assert_readable(page)
    page.goto("/launch?like=churn-2")
    expect(page.get_by_label("ε for training")).to_have_value("0.5")
    page.get_by_role("button", name="Write the plan and see its cost").click()
    page.get_by_label("TOML").fill("format = 1\nsurprise = true")
    page.get_by_role("button", name="Check it again").click()
    expect(page.get_by_role("alert")).to_contain_text("surprise: unknown key")
    assert page.get_by_role("button", name="Sign and start this run").count() == 0
    assert_readable(page)


def test_runs_stand_side_by_side_with_what_differs(
    visit: Open, picture: Callable[[Page, str], None]
) -> None:
    page = visit("dora")
    page.get_by_role("link", name="Compare", exact=True).click()
    page.get_by_label("churn-1").check()
    page.get_by_label("churn-2").check()
    page.get_by_role("button", name="Compare these").click()
    # In the order of the list: the newest first.
    assert row(page, "AUC") == "AUC 0.780 ± 0.010 0.710 ± 0.010"
    assert "privacy.epsilon: 0.5 1.0" in row(page, "Differs from the first plan in")
    chart = page.get_by_role("img", name=re.compile("AUC of these runs"))
    assert chart.evaluate("image => image.decode().then(() => image.naturalWidth > 100)")
    picture(page, "compare")
    page.goto("/compare?run=churn-1")
    expect(page.get_by_role("alert")).to_contain_text("Choose two to six runs.")


def test_a_failed_run_says_why_and_what_to_do(visit: Open) -> None:
    page = visit("dora")
    page.goto("/runs?state=failed")
    page.get_by_role("link", name="churn-3").click()
    main = page.locator("main")
    expect(main).to_contain_text("Too few parties took part")
    expect(main).to_contain_text("lower cohort.minimum in the plan")
    expect(main).to_contain_text("2 of 3 parties accepted")


def test_what_somebody_wrote_into_a_plan_is_text(visit: Open) -> None:
    page = visit("dora")
    page.goto("/runs/churn-1/plan")
    expect(page.locator("pre")).to_contain_text(SCRIPT)
    assert "Plan of churn-1" in page.title()


# The reviewer ------------------------------------------------------------------------------------


def test_a_reviewer_reads_budgets_and_what_another_run_would_take(
    visit: Open, picture: Callable[[Page, str], None]
) -> None:
    page = visit("rita")
    page.get_by_role("link", name="Privacy", exact=True).click()
    table = page.locator("#budgets-table")
    assert table.get_by_role("rowheader").all_inner_texts() == ["retailer", "bank", "shop"]
    expect(table).to_contain_text("93.0 %")
    picture(page, "privacy")
    page.get_by_label("A run like").select_option("churn-1")
    page.get_by_label("ε for training").fill("0.2")
    page.get_by_role("button", name="Show what it would cost").click()
    cheap = float(page.locator("#cost-table tr", has_text="bank").locator("td").nth(2).inner_text())
    page.get_by_label("ε for training").fill("3")
    page.get_by_role("button", name="Show what it would cost").click()
    dear = float(page.locator("#cost-table tr", has_text="bank").locator("td").nth(2).inner_text())
    assert cheap < 1.5 < 3 < dear
    expect(page.locator("main")).to_contain_text("what was released stays released")


def test_a_reviewer_takes_a_pack_that_verifies_offline(
    visit: Open, dashboard: Asked, tmp_path: Path, picture: Callable[[Page, str], None]
) -> None:
    page = visit("rita")
    page.get_by_role("link", name="Evidence", exact=True).click()
    picture(page, "evidence")
    with page.expect_download() as download:
        page.get_by_role("link", name="Take the pack of churn-3").first.click()
    file = tmp_path / "pack.zip"
    download.value.save_as(file)
    assert download.value.suggested_filename == "churn-3.evidence.zip"
    from coordinator.evidence import Evidence

    evidence = Evidence(dashboard.coordinator.settings)
    try:
        assert verify(file.read_bytes(), evidence.keys())
    finally:
        evidence.close()
    page.reload()
    expect(page.locator("#packs-table")).to_contain_text("churn-3")
    page.get_by_role("link", name="Audit log", exact=True).first.click()
    expect(page.locator("main")).to_contain_text("whole")
    expect(page.locator("#lines-table")).to_contain_text("take an evidence pack")
    picture(page, "audit")


def test_a_reviewer_changes_nothing(visit: Open) -> None:
    page = visit("rita")
    assert {"Launch"}.isdisjoint(menu(page))
    for path in ("/runs/churn-1", "/parties/bank", "/parties", "/people"):
        page.goto(path)
        own = page.locator("main form[method=post]")
        assert own.count() == 0, path
    page.goto("/launch")
    expect(page.get_by_role("heading", level=1)).to_have_text("Not allowed")


# A party's operator ------------------------------------------------------------------------------


def test_a_partys_operator_sees_that_party_and_others_greyed(
    visit: Open, picture: Callable[[Page, str], None]
) -> None:
    page = visit("otto")
    assert set(menu(page)) == {
        "Home", "Alerts", "Runs", "Compare", "Tags and models", "Privacy", "Evidence", "Parties",
    }  # fmt: skip
    page.goto("/runs/churn-1")
    expect(page.locator("#parties-table tr", has_text="bank")).to_contain_text("1,100 B")
    other = page.locator("#parties-table tr", has_text="retailer")
    expect(other).to_contain_text("for that party alone")
    picture(page, "operator")
    page.goto("/privacy")
    assert page.locator("#budgets-table").get_by_role("rowheader").all_inner_texts() == ["bank"]
    page.goto("/parties/retailer")
    expect(page.get_by_role("heading", level=1)).to_have_text("Not found")


# The administrator -------------------------------------------------------------------------------


def test_an_administrator_invites_once_and_removes_after_asking(visit: Open) -> None:
    page = visit("ann")
    page.goto("/parties")
    page.get_by_label("Name of the party").fill("insurer")
    page.get_by_role("button", name="Make an invitation").click()
    expect(page.locator("pre")).to_contain_text('"party": "insurer"')
    shown = page.url
    page.goto(shown)  # a second look finds nothing
    expect(page.get_by_role("heading", level=1)).to_have_text("Parties")
    expect(page.locator("#invitations-table")).to_contain_text("insurer")
    page.goto("/parties/shop")
    page.get_by_role("button", name="Remove this party").click()
    expect(page.get_by_role("alert")).to_contain_text("Tick the box if you mean it.")
    page.get_by_label("Yes, remove shop").check()
    page.get_by_role("button", name="Remove this party").click()
    expect(page.get_by_role("status")).to_contain_text("The party was removed")
    expect(page.locator("#parties-table tr", has_text="shop")).to_contain_text("removed")


# Every page --------------------------------------------------------------------------------------

PAGES = [*PATHS, "/runs/churn-1", "/runs/churn-3", "/runs/churn-1/plan", "/parties/bank"]
COMPARED = "/compare?run=churn-1&run=churn-2"


@pytest.mark.parametrize(("scheme", "width"), [("light", 1200), ("dark", 1200), ("light", 380)])
def test_every_page_is_readable(visit: Open, scheme: str, width: int) -> None:
    page = visit("ann", scheme=scheme, width=width)
    for path in (*PAGES, COMPARED):
        page.goto(path)
        assert_readable(page)
        drawn = "Promise.all([...document.images].map(one => one.decode().then(() => true)))"
        assert all(page.evaluate(drawn)), path


def test_every_page_is_in_chinese(visit: Open) -> None:
    page = visit("ann", language="zh-CN")
    english = set()
    for folder in (FOLDER / "translations", TRANSLATIONS):
        with (folder / "zh.po").open("rb") as source:
            english |= {one.id for one in read_po(source, locale="zh") if isinstance(one.id, str)}
    same = {"AUC", "SHA-256", "ε"}
    for path in (*PAGES, COMPARED):
        page.goto(path)
        left = (set(texts_of(page)) & english) - same
        assert left == set(), path
        assert page.evaluate("document.documentElement.lang") == "zh-Hans"


def test_a_page_is_reached_by_the_keyboard_alone(visit: Open) -> None:
    page = visit()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    sign_in(page, "dora", PASSWORD)
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"


def test_the_policy_lets_only_this_service_in(visit: Open, dashboard: Asked) -> None:
    page = visit("dora")
    answer = page.goto("/runs/churn-1")
    assert answer is not None
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self'" in policy
    assert "unsafe" not in policy
