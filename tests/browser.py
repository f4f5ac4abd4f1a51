"""The page at `/`, as its tests use it in a real Chromium."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import (
    Browser,
    FilePayload,
    Locator,
    Page,
    Playwright,
    expect,
)

from server import REPOSITORY, Server
from support import PATIENCE, wav
from whisperx_api_server.backends.fake import say, silence

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
SCREENSHOTS = REPOSITORY / "build" / "page"
TAGS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"]


def launch(playwright: Playwright, directory: Path) -> Browser:
    """A Chromium whose microphone hears "red door house" again and again."""
    expect.set_options(timeout=1000 * PATIENCE)
    said = directory / "said.wav"
    said.write_bytes(wav(np.concatenate([silence(0.5), say("red door house"), silence(1.5)])))
    return playwright.chromium.launch(
        executable_path=CHROMIUM,
        args=[
            "--no-sandbox",
            "--autoplay-policy=no-user-gesture-required",
            "--use-fake-ui-for-media-stream",
            "--use-fake-device-for-media-stream",
            f"--use-file-for-fake-audio-capture={said}",
        ],
    )


@contextmanager
def tab(browser: Browser, server: Server, **options: Any) -> Iterator[Page]:
    """A tab of a new user, which asks nothing of another host and logs no error of its own."""
    context = browser.new_context(base_url=server.url, reduced_motion="reduce", **options)
    context.set_default_timeout(1000 * PATIENCE)
    asked: list[str] = []
    errors: list[str] = []
    context.on("request", lambda request: asked.append(request.url))
    context.on("page", lambda page: page.on("websocket", lambda live: asked.append(live.url)))
    context.on("weberror", lambda error: errors.append(str(error.error)))
    context.on("console", lambda said: errors.append(said.text) if said.type == "error" else None)
    yield context.new_page()
    context.close()
    ours = (server.url, f"ws{server.url[4:]}", "blob:", "data:")
    assert asked
    assert [url for url in asked if not url.startswith(ours)] == []
    of_answers = "Failed to load resource"
    assert [error for error in errors if not error.startswith(of_answers)] == []


def look(page: Page, name: str) -> None:
    """Take a screenshot; axe finds nothing; nothing moves or is wider than the window."""
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=True)
    found = Axe().run(page, options={"runOnly": TAGS}).response["violations"]
    assert [(each["id"], [node["html"] for node in each["nodes"]]) for each in found] == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.evaluate("document.getAnimations().length") == 0
    moving = """[...document.querySelectorAll("*")].filter(
        each => getComputedStyle(each).transitionDuration !== "0s").length"""
    assert page.evaluate(moving) == 0  # the reader wants reduced motion


def file(name: str, audio: bytes) -> FilePayload:
    return {"name": name, "mimeType": "audio/wav", "buffer": audio}


def choose(page: Page, *recordings: tuple[str, bytes]) -> None:
    page.get_by_label("Choose recordings").set_input_files(
        [file(name, audio) for name, audio in recordings]
    )


def option(page: Page, name: str, value: str) -> None:
    if page.locator("#options").get_attribute("open") is None:
        page.get_by_text("Options").click()
    field = page.get_by_label(name)
    if field.evaluate("each => each.tagName") == "SELECT":
        field.select_option(value)
    else:
        field.fill(value)
        field.blur()


def open_job(page: Page, name: str) -> None:
    page.get_by_role("link", name=name).first.click()


def open_result(page: Page, name: str) -> None:
    open_job(page, name)
    expect(page.get_by_role("group", name="Transcript")).to_be_visible()


def job_row(page: Page, name: str) -> Locator:
    return page.locator("li[data-status]").filter(has_text=name)  # not its upload
