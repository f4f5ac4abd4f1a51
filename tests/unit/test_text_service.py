"""Text requests share their lanes fairly, and are told in their own words what is wrong."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

import pytest

from live import until
from support import PATIENCE
from whisperx_api_server import text_service
from whisperx_api_server.active_requests import ActiveRequests
from whisperx_api_server.backends import ModelKey
from whisperx_api_server.backends.base import GenerationOptions
from whisperx_api_server.config import Settings
from whisperx_api_server.errors import (
    InvalidRequest,
    ModelNotFound,
    ModelUnavailable,
    NotConfigured,
    Overloaded,
    ServiceError,
    Unavailable,
)
from whisperx_api_server.scheduling.model_pool import ModelPool, PoolSettings, SchedulerSettings
from whisperx_api_server.text_service import PIECE, TextRequest, TextService, pieces, sentences
from whisperx_api_server.wiring import build_catalog


class Engine:
    """A model that shouts; can be held, and remembers its batches."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.go.set()
        self.busy = threading.Event()
        self.batches: list[list[str]] = []
        self.pairs: set[tuple[str, str]] = set()
        self.asked: list[tuple[str, GenerationOptions, object]] = []

    def translate(self, sentences: Sequence[str], source: str, target: str) -> list[str]:
        self.busy.set()
        assert self.go.wait(PATIENCE)
        self.batches.append(list(sentences))
        self.pairs.add((source, target))
        return [sentence.upper() for sentence in sentences]

    def generate(
        self,
        prompt: str,
        *,
        options: GenerationOptions,
        schema: Mapping[str, object] | None = None,
    ) -> str:
        self.asked.append((prompt, options, schema))
        return prompt.upper()


class House:
    """A text service, the engine behind it, and what it loaded."""

    def __init__(self, *, failure: ServiceError | None = None, timeout: float = 0.0) -> None:
        self.engine = Engine()
        self.loaded: list[ModelKey] = []
        self.failure = failure
        self.pool = ModelPool(PoolSettings(), SchedulerSettings(), load=self._load)
        settings = Settings(
            translation={"models": {"de-en": "own/model"}},
            llm={"model": "some/llm"},
        )
        self.active = ActiveRequests()
        self.text = TextService(
            active=self.active, pool=self.pool, catalog=build_catalog(settings), timeout=timeout
        )

    def _load(self, key: ModelKey) -> object:
        self.loaded.append(key)
        if self.failure:
            raise self.failure
        return self.engine

    async def translate(
        self, text: str, source: str = "fr", target: str = "en", *, name: str = "r"
    ) -> str:
        return await self.text.translate(
            TextRequest(id=name, client=name, text=text, source=source, target=target)
        )

    async def generate(self, prompt: str, **config: object) -> str:
        return await self.text.generate(TextRequest(id="r", client="c", text=prompt, config=config))

    async def until_waiting(self, count: int) -> None:
        await until(lambda: self.pool.statuses()[0].waiting == count)


@asynccontextmanager
async def house(failure: ServiceError | None = None, limit: float = 0.0) -> AsyncIterator[House]:
    built = House(failure=failure, timeout=limit)
    try:
        yield built
    finally:
        built.engine.go.set()
        await built.pool.close()


SENTENCE = "Ouvre la porte rouge, merci. "
PAGE = SENTENCE * 400


def test_pieces_have_whole_sentences_and_lose_none() -> None:
    cut = list(pieces(sentences(PAGE, "fr")))
    assert len(cut) > 10
    assert [sentence for piece in cut for sentence in piece] == [SENTENCE.strip()] * 400
    assert all(sum(map(len, piece)) <= PIECE for piece in cut)


@pytest.mark.parametrize("text", ["mot " * 2000, "." * 5000, "3.14159 " * 1000])
def test_text_without_sentences_is_cut_between_words(text: str) -> None:
    cut = list(sentences(text, None))
    assert " ".join(cut) == text.strip()
    assert all(len(part) <= 1000 for part in cut) or " " not in text.strip()
    assert list(pieces(cut)) == [[part] for part in cut]


def test_sentences_of_a_language_without_spaces_are_cut() -> None:
    cut = list(sentences("赤い扉を開けて。" * 200, "ja"))
    assert cut == ["赤い扉を開けて。"] * 200
    assert len(list(pieces(cut))) > 2


def test_a_page_comes_back_whole_with_its_lines() -> None:
    async def run() -> None:
        async with house() as it:
            page = f"{PAGE.strip()}\n\n  {SENTENCE}"
            assert await it.translate(page) == f"{PAGE.strip()}\n\n{SENTENCE.strip()}".upper()
            assert it.engine.pairs == {("fr", "en")}
            assert max(map(len, it.engine.batches)) > 1

    asyncio.run(run())


def test_no_space_is_put_between_sentences_of_japanese() -> None:
    async def run() -> None:
        async with house() as it:
            assert await it.translate("a. " * 400, "fr", "ja") == "A." * 400
            assert max(map(len, it.engine.batches)) > 1

    asyncio.run(run())


def test_a_sentence_does_not_wait_for_a_page() -> None:
    async def run() -> None:
        async with house() as it:
            it.engine.go.clear()
            page = asyncio.create_task(it.translate(PAGE, name="page"))
            await asyncio.to_thread(it.engine.busy.wait, PATIENCE)
            sentence = asyncio.create_task(it.translate("bonjour", name="sentence"))
            before = it.pool.statuses()[0].waiting
            await it.until_waiting(before + 1)
            it.engine.go.set()
            assert await sentence == "BONJOUR"
            await page
            first = next(i for i, batch in enumerate(it.engine.batches) if "bonjour" in batch)
            assert first < len(it.engine.batches) - 1

    asyncio.run(run())


def test_waiting_requests_are_dropped_on_a_disconnect() -> None:
    async def run() -> None:
        async with house() as it:
            it.engine.go.clear()
            page = asyncio.create_task(it.translate(PAGE))
            await asyncio.to_thread(it.engine.busy.wait, PATIENCE)
            page.cancel()
            with pytest.raises(asyncio.CancelledError):
                await page
            assert it.pool.statuses()[0].waiting == 0
            it.engine.go.set()
            assert await it.translate("bonjour") == "BONJOUR"
            assert len(it.engine.batches) == 2

    asyncio.run(run())


def test_time_is_bounded() -> None:
    async def run() -> None:
        async with house(limit=0.05) as it:
            it.engine.go.clear()
            with pytest.raises(Unavailable, match=r"0\.05 s"):
                await it.translate(PAGE)
            assert it.pool.statuses()[0].waiting == 0

    asyncio.run(run())


def test_too_many_are_told_when_to_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_service, "MAX_WAITING", 2)

    async def run() -> None:
        async with house() as it:
            it.engine.go.clear()
            waiting = [asyncio.create_task(it.translate(SENTENCE, name=f"{i}")) for i in range(2)]
            await asyncio.to_thread(it.engine.busy.wait, PATIENCE)
            with pytest.raises(Overloaded) as refused:
                await it.translate(SENTENCE)
            assert refused.value.retry_after is not None
            assert refused.value.retry_after >= 1
            it.engine.go.set()
            await asyncio.gather(*waiting)
            assert await it.translate("bonjour") == "BONJOUR"

    asyncio.run(run())


@pytest.mark.parametrize(
    ("text", "source", "target"),
    [("bonjour", "fr", "French"), ("", "fr", "en"), (" \n", "fr", "en")],
)
def test_nothing_is_loaded_for_nothing(text: str, source: str, target: str) -> None:
    async def run() -> None:
        async with house() as it:
            assert await it.translate(text, source, target) == text
            assert it.loaded == []

    asyncio.run(run())


@pytest.mark.parametrize(
    ("source", "target", "param"),
    [("xx", "en", "source_language"), ("fr", "../../etc", "target_language")],
)
def test_an_unknown_language_is_named(source: str, target: str, param: str) -> None:
    async def run() -> None:
        async with house() as it:
            with pytest.raises(InvalidRequest) as refused:
                await it.translate("bonjour", source, target)
            assert refused.value.param == param
            assert it.loaded == []

    asyncio.run(run())


def test_an_unknown_pair_is_the_clients_error() -> None:
    async def run() -> None:
        async with house(ModelNotFound("the hub has no such model")) as it:
            with pytest.raises(InvalidRequest, match="'fr' to 'ja'") as refused:
                await it.translate("bonjour", "fr", "ja")
            assert (refused.value.status, refused.value.param) == (400, "target_language")
            assert [key.spec.name for key in it.loaded] == ["Helsinki-NLP/opus-mt-fr-ja"]

    asyncio.run(run())


def test_a_configured_pair_without_model_is_not() -> None:
    async def run() -> None:
        async with house(ModelNotFound("the hub has no such model")) as it:
            with pytest.raises(ModelNotFound):
                await it.translate("hallo", "de", "en")
            assert [key.spec.name for key in it.loaded] == ["own/model"]

    asyncio.run(run())


def test_a_hub_that_is_down_is_worth_another_try() -> None:
    async def run() -> None:
        async with house(ModelUnavailable("the hub cannot be reached")) as it:
            with pytest.raises(ModelUnavailable):
                await it.translate("bonjour")
            it.failure = None
            assert await it.translate("bonjour") == "BONJOUR"

    asyncio.run(run())


def test_generation_passes_options_and_schema() -> None:
    async def run() -> None:
        async with house() as it:
            request = TextRequest(
                id="r",
                client="c",
                text="hi",
                config={"max_new_tokens": 7},
                schema={"type": "object"},
            )
            assert await it.text.generate(request) == "HI"
            options = GenerationOptions(max_new_tokens=7)
            assert it.engine.asked == [("hi", options, {"type": "object"})]

    asyncio.run(run())


def test_bad_options_load_nothing() -> None:
    async def run() -> None:
        async with house() as it:
            with pytest.raises(InvalidRequest) as refused:
                await it.generate("hi", temperature=-1)
            assert refused.value.param == "gen_cfg"
            assert it.loaded == []

    asyncio.run(run())


def test_a_language_model_that_is_not_set_names_the_setting() -> None:
    async def run() -> None:
        text = TextService(
            active=ActiveRequests(),
            pool=ModelPool(PoolSettings(), SchedulerSettings()),
            catalog=build_catalog(Settings()),
            timeout=0,
        )
        with pytest.raises(NotConfigured, match="LLM__MODEL"):
            await text.generate(TextRequest(id="r", client="c", text="hi"))

    asyncio.run(run())


def test_a_shutdown_waits_for_a_translation() -> None:
    async def run() -> None:
        async with house() as it:
            it.engine.go.clear()
            text = asyncio.create_task(it.translate(SENTENCE))
            assert await asyncio.to_thread(it.engine.busy.wait, PATIENCE)
            draining = asyncio.create_task(it.active.drain(20))
            await asyncio.sleep(0)
            assert it.active.draining
            assert not draining.done()
            it.engine.go.set()
            assert await draining
            assert await text == SENTENCE.strip().upper()

    asyncio.run(run())
