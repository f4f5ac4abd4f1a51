"""The page's transcripts, in a real Chromium: words, speakers, downloads; and `/docs`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from playwright.sync_api import Browser, Locator, Page, Route, expect

from browser import choose, file, job_row, look, open_result, option, tab
from recordings import encode
from server import Server
from support import eventually
from tones import sentences, text
from whisperx_api_server.backends.fake import say, silence


@pytest.fixture(scope="module")
def talk(browser: Browser, fake_server: Server) -> Iterator[Page]:
    """The page with the transcript of two speakers, in which the word "black" is unsure."""
    permissions = ["clipboard-read", "clipboard-write"]
    with tab(browser, fake_server, permissions=permissions) as page:
        page.route("**/result?response_format=verbose_json*", doubt)
        page.goto("/")
        option(page, "Speakers", "2")
        choose(page, ("our talk.wav", sentences(4, speakers=2)))
        open_result(page, "our talk.wav")
        play_slowly(page)
        yield page


def play_slowly(page: Page, rate: float = 1 / 16) -> None:
    """Play at that rate, so that each word is lit for seconds: a busy machine sees it too."""
    page.locator("#audio").evaluate(
        "(each, rate) => { each.defaultPlaybackRate = each.playbackRate = rate; }", rate
    )


def doubt(route: Route) -> None:
    transcript = route.fetch().json()
    for segment in transcript["segments"]:
        for word in segment["words"]:
            if word["word"].startswith("black"):
                word["score"] = 0.3
    route.fulfill(json=transcript)


def words(page: Page) -> Locator:
    return page.locator("#transcript .words > span")


def test_the_word_that_plays_is_lit_and_a_click_plays_from_there(talk: Page) -> None:
    page = talk
    audio = page.locator("#audio")
    look(page, "speakers")
    play_slowly(page, 1 / 4)
    page.locator("#transcript").get_by_text("white", exact=True).first.click()
    lit = page.locator("#transcript .lit")
    expect(lit).to_have_text("red.")  # the word after it
    assert audio.evaluate("each => each.currentTime") > 5.3
    box = page.locator("#waveform").bounding_box()
    assert box is not None
    page.mouse.click(box["x"] + box["width"] * 0.755, box["y"] + 20)
    assert 15 <= audio.evaluate("each => each.currentTime") < 20
    audio.evaluate("each => each.pause()")
    play_slowly(page)
    colors = page.evaluate(
        """() => {
            const canvas = document.getElementById("waveform");
            const at = (part) => [...canvas.getContext("2d").getImageData(
                Math.floor(canvas.width * part), canvas.height / 2, 1, 1).data].join();
            return [at(0.003), at(0.253), at(0.9)];
        }"""
    )
    assert len(set(colors)) == 3  # the first speaker, the second, nobody
    tall = """() => {
        const canvas = document.getElementById("waveform");
        const top = canvas.getContext("2d").getImageData(0, 4, canvas.width, 1).data;
        return top.filter((value, at) => at % 4 === 3 && value).length;
    }"""
    eventually(lambda: page.evaluate(tall) > 20)  # columns: the loudest parts


def test_the_keyboard_alone_suffices(talk: Page) -> None:
    page = talk
    page.evaluate("document.activeElement.blur()")
    reached = []
    for _ in range(40):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id || document.activeElement.tagName"))
    for wanted in ("audio", "search", "search-next", "unsure-next", "copy", "transcript"):
        assert wanted in reached, wanted
    assert "job-cancel" in reached
    page.locator("#transcript").focus()
    page.keyboard.press("ArrowLeft")
    for _ in range(20):
        page.keyboard.press("ArrowLeft")
    page.locator("#audio").evaluate("each => each.pause()")
    expect(page.locator("#transcript .lit")).to_have_text(words(page).first.inner_text())
    page.keyboard.press(" ")
    assert not page.locator("#audio").evaluate("each => each.paused")
    page.keyboard.press(" ")
    assert page.locator("#audio").evaluate("each => each.paused")


def test_words_are_searched_marked_and_copied(talk: Page) -> None:
    page = talk
    page.get_by_label("Search").fill("BLUE  white")
    expect(page.locator("#search-count")).to_have_text("1 found")
    found = page.locator("#transcript .found")
    assert found.all_inner_texts() == ["blue", "white"]
    page.get_by_role("button", name="Next", exact=True).click()
    expect(page.locator("#transcript .lit")).to_have_text("blue")
    page.locator("#audio").evaluate("each => each.pause()")
    page.get_by_label("Search").fill("")
    expect(found).to_have_count(0)

    unsure = page.locator("#transcript .unsure")
    assert set(unsure.all_inner_texts()) == {"black"}
    assert unsure.first.get_attribute("title") == "probability 30 %"
    count = unsure.count()
    page.get_by_role("button", name=f"Next unsure word ({count})").click()
    expect(page.locator("#transcript .lit")).to_have_text("black")
    page.locator("#audio").evaluate("each => each.pause()")

    page.get_by_role("button", name="Copy").click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied.split("\n\n")[1].startswith("SPEAKER_01: blue white red.")


def test_a_speaker_is_renamed_once_for_all(talk: Page, tmp_path: Path) -> None:
    page = talk
    page.get_by_label("Name of SPEAKER_01").fill("Ada Lovelace")
    names = page.locator("#transcript .speaker")
    assert names.all_inner_texts() == ["SPEAKER_00:", "Ada Lovelace:"] * 2
    bodies = {}
    for extension in ("srt", "vtt", "txt", "json", "aud"):
        with page.expect_download() as downloading:
            page.get_by_role("button", name=f"Download as {extension}").click()
        assert downloading.value.suggested_filename == f"our talk.{extension}"
        downloading.value.save_as(tmp_path / extension)
        bodies[extension] = (tmp_path / extension).read_text()
    for extension in ("srt", "vtt", "aud"):
        assert "[Ada Lovelace]: blue white red." in bodies[extension]
        assert "SPEAKER_01" not in bodies[extension]
    speakers = [segment["speaker"] for segment in json.loads(bodies["json"])["segments"]]
    assert speakers == ["SPEAKER_00", "Ada Lovelace"] * 2
    assert bodies["txt"].strip() == text(4)
    page.reload()
    expect(names.nth(1)).to_have_text("Ada Lovelace:")


def test_another_browser_is_asked_for_the_recording(
    talk: Page, browser: Browser, fake_server: Server
) -> None:
    with tab(browser, fake_server) as page:
        page.goto("/")
        open_result(page, "our talk.wav")
        page.get_by_label("To listen, choose the recording").set_input_files(
            file("x.wav", sentences(4, speakers=2))
        )
        play_slowly(page, 1 / 4)
        words(page).nth(4).click()
        expect(page.locator("#transcript .lit")).to_have_text("red.")
        page.locator("#audio").evaluate("each => each.pause()")
        page.reload()
        expect(page.locator("#audio")).to_be_visible()


COUNT_DECODES = """
    globalThis.decodes = 0;
    const decode = BaseAudioContext.prototype.decodeAudioData;
    BaseAudioContext.prototype.decodeAudioData = function (...given) {
        decodes += 1;
        return decode.apply(this, given);
    };
"""
"""A script; `decodes` is how many files have been decoded whole."""

RENDERED = """() => [...document.querySelectorAll("#transcript .words")].filter(
    each => each.checkVisibility({contentVisibilityAuto: true})).length"""

IN_VIEW = """() => {
    const view = document.getElementById("transcript").getBoundingClientRect();
    return [...document.querySelectorAll(".segment")].findIndex(
        each => each.getBoundingClientRect().top > view.top + view.height / 2);
}"""
"""The segment in the middle of the view."""


def three_hours(path: Path) -> Path:
    """An MP3 file of tones and silence: the same minute again and again, 1 kB a second."""
    tone = np.concatenate([say("red door house"), silence(5.1)])
    minute = encode(
        path,
        np.tile(tone, 10),
        "-c:a libmp3lame -ar 8000 -b:a 8k -reservoir 0 -write_xing 0 -id3v2_version 0",
    )
    path.write_bytes((minute * 180)[: 3 * 3600 * 1000])
    return path


def test_three_hours_scroll_and_play_from_anywhere(
    browser: Browser, fake_server: Server, tmp_path: Path
) -> None:
    job = "a" * 32
    transcript = {"duration": 10_800.0, "segments": [ten_words(at) for at in range(1000)]}
    status = {"request_id": job, "status": "completed", "filename": "long.mp3"} | {
        "submitted_at": 0,
        "duration": 10_800.0,
        "percent": 100.0,
        "eta_seconds": None,
        "queue_position": 0,
        "error": None,
    }
    with tab(browser, fake_server) as page:
        page.add_init_script(COUNT_DECODES)
        page.route(f"**/{job}/status", lambda route: route.fulfill(json=status))
        page.route(f"**/{job}/result*", lambda route: route.fulfill(json=transcript))
        page.goto(f"/#job={job}")
        expect(words(page)).to_have_count(10_000)
        assert page.evaluate(RENDERED) < 100
        page.get_by_label("To listen, choose the recording").set_input_files(
            three_hours(tmp_path / "long.mp3")
        )
        audio = page.locator("#audio")
        expect(audio).to_be_visible()
        eventually(lambda: abs(audio.evaluate("each => each.duration || 0") - 10_800) < 1)
        play_slowly(page)

        page.locator("#transcript").hover()
        page.mouse.wheel(0, 15_000)
        eventually(lambda: page.evaluate(IN_VIEW) > 400)
        assert page.evaluate(RENDERED) < 100
        place = page.evaluate(IN_VIEW)
        words(page).nth(10 * place + 3).click()
        expect(page.locator("#transcript .lit")).to_have_text(f"w{place}x3")
        plays_from(page, 10.8 * place + 3)

        box = page.locator("#waveform").bounding_box()
        assert box is not None
        page.mouse.click(box["x"] + box["width"] * 0.25, box["y"] + 20)
        plays_from(page, 2700, before=12)  # a pixel is 12 s
        expect(page.locator("#transcript .lit")).to_be_in_viewport()
        assert page.evaluate(RENDERED) < 100

        audio.evaluate("each => each.pause()")
        page.locator("#transcript").hover()
        page.mouse.wheel(0, 100_000)
        expect(words(page).last).to_be_in_viewport()
        assert page.evaluate(RENDERED) < 100
        page.get_by_label("Search").fill("w990x5 w990x6")
        page.get_by_label("Search").press("Enter")
        expect(page.locator("#transcript .lit")).to_have_text("w990x5")
        expect(page.locator("#transcript .lit")).to_be_in_viewport()
        plays_from(page, 10.8 * 990 + 5)
        assert page.evaluate(RENDERED) < 100
        assert page.evaluate("decodes") == 0


def plays_from(page: Page, time: float, *, before: float = 0) -> None:
    """Its sound goes on from that time, or up to `before` seconds before it."""

    def plays() -> bool:
        paused, now = page.locator("#audio").evaluate("each => [each.paused, each.currentTime]")
        return not paused and time - before < now < time + 10

    eventually(plays)


def ten_words(place: int) -> dict[str, Any]:
    """A segment of ten words; they are all different."""
    start = 10.8 * place
    spoken = [f"w{place}x{at}" for at in range(10)]
    return {
        "start": start,
        "end": start + 10,
        "text": " " + " ".join(spoken),
        "avg_logprob": -0.1,
        "words": [
            {"word": word, "start": start + at, "end": start + at + 0.5, "score": 0.9}
            for at, word in enumerate(spoken)
        ],
    }


def test_it_is_readable_in_the_dark_and_on_a_phone(talk: Page) -> None:
    page = talk
    looks: dict[str, tuple[Literal["light", "dark"], int]] = {
        "dark": ("dark", 1280),
        "phone": ("light", 360),
    }
    for name, (scheme, width) in looks.items():
        page.emulate_media(color_scheme=scheme)
        page.set_viewport_size({"width": width, "height": 740})
        page.get_by_role("link", name="All transcripts").click()
        expect(job_row(page, "our talk.wav")).to_contain_text("done")
        page.locator("#options").evaluate("each => { each.open = true; }")
        look(page, f"{name}-form")
        open_result(page, "our talk.wav")
        words(page).first.click()
        page.locator("#audio").evaluate("each => each.pause()")
        look(page, name)


def test_the_api_is_described_without_another_host(browser: Browser, fake_server: Server) -> None:
    with tab(browser, fake_server) as page:
        page.goto("/docs")
        document = fake_server.http.get("/openapi.json").json()
        operations = [*document["paths"].values(), *document["webhooks"].values()]
        expect(page.locator(".opblock")).to_have_count(sum(map(len, operations)))


def test_the_page_can_run_only_what_the_server_sends_now(fake_server: Server) -> None:
    policy = fake_server.http.get("/").headers["content-security-policy"]
    assert "default-src 'none'; script-src 'self'; style-src 'self';" in policy
    assert "unsafe" not in policy
    for path in ("/", "/page/js/main.js", "/page/style.css", "/docs/files/swagger-ui.css"):
        sent = fake_server.http.get(path)
        assert sent.headers["cache-control"] == "no-cache"
    again = fake_server.http.get(path, headers={"if-none-match": sent.headers["etag"]})
    assert again.status_code == 304
    assert fake_server.http.get("/page/../routers/page.py").status_code == 404
    assert fake_server.http.get("/page/nothing.js").json()["error"]["code"] == "not_found"
