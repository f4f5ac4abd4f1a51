"""Live sessions of a replica of MODE=kafka: it refuses them, unless it has models of its own."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from websockets.exceptions import InvalidStatus

from realtime import SPEECH, live, spoken
from server import FAKE, Server, serving
from whisperx_api_server.backends.fake import say, silence


def test_a_replica_without_models_says_how_to_turn_live_sessions_on(kafka_server: Server) -> None:
    with pytest.raises(InvalidStatus) as refused, live(kafka_server):
        pass
    secret = kafka_server.http.post("/v1/realtime/client_secrets", json={})

    answer = refused.value.response
    assert (answer.status_code, secret.status_code) == (501, 501)
    error = json.loads(answer.body)["error"]
    assert "REALTIME__ENABLED=true" in error["message"]
    assert secret.json()["error"] == error


def test_a_replica_that_is_told_to_serves_live_sessions(tmp_path: Path) -> None:
    """And its workers transcribe files."""
    settings = FAKE | {"REALTIME__ENABLED": "true"}
    with serving(tmp_path, settings, mode="kafka") as server, live(server) as session:
        session.listen(**SPEECH)
        session.say(np.concatenate([say("red house"), silence(1)]))

        assert spoken(session.until(".completed")) == "red house."
