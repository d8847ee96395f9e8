"""What the tests' people do on many pages."""

from __future__ import annotations

from playwright.sync_api import Page

from party_client.console.menu import MENU

from .party_home import PASSWORD

PATHS = [entry.path for _, entries in MENU for entry in entries]


def sign_in(page: Page, name: str, password: str = PASSWORD) -> None:
    """From the sign-in page to wherever it leads."""
    page.fill("#name", name)
    page.fill("#password", password)
    page.keyboard.press("Enter")
    page.wait_for_url(lambda url: "sign-in" not in url)


def menu(page: Page) -> list[str]:
    """The pages that the menu offers."""
    return page.get_by_role("navigation", name="Pages").get_by_role("link").all_inner_texts()


def row(page: Page, text: str) -> str:
    """The first table row that holds `text`, in one line."""
    return " ".join(page.get_by_role("row").filter(has_text=text).first.inner_text().split())


def look_up(page: Page, customer: str, purpose: str = "retention") -> None:
    """Look a customer up by the form."""
    page.goto("/customer")
    page.get_by_label("Customer id").fill(customer)
    page.get_by_label("Purpose").select_option(purpose)
    page.get_by_role("button", name="Look up").click()
