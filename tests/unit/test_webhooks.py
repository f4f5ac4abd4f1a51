"""Webhooks: signed so that OpenAI's SDK verifies them, and sent until they are accepted."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from openai import InvalidWebhookSignatureError, OpenAI

from receiver import Receiver
from support import PATIENCE
from whisperx_api_server.audio.uploads import DiskBlobStore
from whisperx_api_server.audio.urls import UrlFetcher, UrlFetchSettings
from whisperx_api_server.config import load_settings
from whisperx_api_server.errors import ConfigurationError, InvalidRequest, NotConfigured
from whisperx_api_server.jobs.webhooks import Webhooks

SECRETS = ["whsec_" + base64.b64encode(b"thirty-two bytes of good secrets").decode(), "plain text"]
EVENT = {"id": "evt_1", "type": "transcription.completed", "data": {"text": "où ça"}}

Make = Callable[..., Webhooks]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def made(*, secret: str | None = SECRETS[0], private: bool = True, tries: int = 3) -> Webhooks:
        policy = UrlFetchSettings(allow_private_hosts=private, timeout=PATIENCE)
        fetcher = UrlFetcher(policy, uploads=DiskBlobStore(workdir=tmp_path, max_bytes=1))
        return Webhooks(fetcher, secret=secret, back_off=(0.001,) * (tries - 1))

    return made


@pytest.mark.parametrize("secret", SECRETS)
def test_the_sdk_verifies_the_signature(make: Make, secret: str) -> None:
    with Receiver() as receiver:
        assert asyncio.run(make(secret=secret).deliver(receiver.url, "evt_1", EVENT))
    (delivery,) = receiver.deliveries
    verify = OpenAI(api_key="none", webhook_secret=secret).webhooks.verify_signature

    verify(delivery.body, delivery.headers)

    assert json.loads(delivery.body) == EVENT
    for forged in (
        (delivery.body.replace(b"completed", b"cancelled"), delivery.headers),
        (delivery.body, delivery.headers | {"webhook-id": "evt_2"}),
        (delivery.body, delivery.headers | {"webhook-timestamp": "1700000000"}),
    ):
        with pytest.raises(InvalidWebhookSignatureError):
            verify(*forged)
    with pytest.raises(InvalidWebhookSignatureError):
        verify(delivery.body, delivery.headers, secret="another")


def test_it_is_sent_again_until_it_is_accepted(make: Make) -> None:
    with Receiver([500, 302, 202, 200]) as receiver:
        assert asyncio.run(make(tries=6).deliver(receiver.url, "evt_1", EVENT))

    assert len(receiver.deliveries) == 3
    assert {delivery.headers["webhook-id"] for delivery in receiver.deliveries} == {"evt_1"}
    assert len({delivery.body for delivery in receiver.deliveries}) == 1


def test_it_is_given_up_after_the_last_try(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    with Receiver([500] * 9) as receiver:
        assert not asyncio.run(make(tries=3).deliver(receiver.url, "evt_1", EVENT))

    assert len(receiver.deliveries) == 3
    assert "evt_1 could not be delivered: it answered 500" in caplog.text


def test_a_receiver_that_is_away_is_tried_again(make: Make) -> None:
    with Receiver() as receiver:
        url = receiver.url

    assert not asyncio.run(make(tries=2).deliver(url, "evt_1", EVENT))


def test_private_hosts_are_refused_at_once_and_at_delivery(make: Make) -> None:
    webhooks = make(private=False, tries=1)
    with Receiver() as receiver:
        with pytest.raises(InvalidRequest) as refused:
            asyncio.run(webhooks.check(receiver.url))
        assert not asyncio.run(webhooks.deliver(receiver.url, "evt_1", EVENT))

    assert refused.value.param == "callback_url"
    assert receiver.deliveries == []


def test_without_a_secret_nothing_is_promised(make: Make) -> None:
    with pytest.raises(NotConfigured, match="WEBHOOK_SECRET"):
        asyncio.run(make(secret=None).check("https://93.184.215.14/done"))


def test_nothing_is_sent_unsigned(make: Make) -> None:
    with Receiver() as receiver, pytest.raises(NotConfigured):
        asyncio.run(make(secret=None).deliver(receiver.url, "evt_1", EVENT))

    assert receiver.deliveries == []


@pytest.mark.parametrize("secret", ["whsec_", "whsec_???", "whsec_YWJ"])
def test_a_secret_that_receivers_cannot_decode_stops_the_start(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, secret: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WEBHOOK_SECRET", secret)

    with pytest.raises(ConfigurationError, match=r"WEBHOOK_SECRET: .*base64") as refused:
        load_settings()

    assert secret == "whsec_" or secret not in str(refused.value)


@pytest.mark.parametrize("secret", SECRETS)
def test_a_good_secret_is_taken(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, secret: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WEBHOOK_SECRET", secret)

    taken = load_settings().webhook_secret

    assert taken is not None
    assert taken.get_secret_value() == secret
