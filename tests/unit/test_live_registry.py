"""Whether live sessions are served, and the short-lived keys that open them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from starlette.requests import HTTPConnection

from whisperx_api_server.active_requests import ActiveRequests
from whisperx_api_server.config import Settings
from whisperx_api_server.errors import NotConfigured, OriginRefused, Overloaded
from whisperx_api_server.keys import ANONYMOUS, Caller, KeyRing
from whisperx_api_server.live import secrets
from whisperx_api_server.live.messages import SessionConfig
from whisperx_api_server.live.registry import LiveSessions
from whisperx_api_server.live.secrets import ClientSecrets
from whisperx_api_server.live.settings import LiveSettings
from whisperx_api_server.routers.realtime import check_origin
from whisperx_api_server.wiring import build_catalog, build_pool, form_defaults


def sessions(*, direct: bool, enabled: bool | None) -> LiveSessions:
    settings = Settings()
    catalog = build_catalog(settings)
    return LiveSessions(
        LiveSettings(enabled=enabled),
        enabled=direct,
        active=ActiveRequests(),
        pool=build_pool(settings),
        catalog=catalog,
        defaults=form_defaults(settings, catalog),
    )


@pytest.mark.parametrize(
    ("direct", "enabled", "served"),
    [(True, None, True), (True, False, False), (False, None, False), (False, True, True)],
)
def test_sessions_are_served_in_direct_mode_unless_the_settings_decide(
    direct: bool, enabled: bool | None, served: bool
) -> None:
    opened = sessions(direct=direct, enabled=enabled)

    if served:
        opened.ensure_enabled()
    else:
        with pytest.raises(NotConfigured, match="REALTIME__ENABLED"):
            opened.ensure_enabled()


@pytest.mark.parametrize("allowed", [["https://page.example"], ["*"]])
def test_pages_of_allowed_origins_may_open_sessions(allowed: list[str]) -> None:
    headers = [(b"origin", b"https://page.example"), (b"host", b"server.example")]
    request = HTTPConnection({"type": "websocket", "headers": headers})

    check_origin(request, allowed)
    with pytest.raises(OriginRefused):
        check_origin(request, ["https://other.example"])


OPEN = KeyRing(api_key=None, file=None)
ANYONE = Caller(client=ANONYMOUS)


def test_a_secret_is_valid_until_it_expires() -> None:
    now = 1000.0
    known = ClientSecrets(OPEN, clock=lambda: now)
    value, secret = known.issue(ANYONE, 60, SessionConfig())

    assert known.find(value.encode()) == secret
    assert (secret.caller, secret.expires_at) == (ANYONE, 1060)
    assert known.find(value.encode() + b"x") is None
    now = 1060
    assert known.find(value.encode()) is None


def test_a_secret_ends_with_its_key(tmp_path: Path) -> None:
    """Also where its client has another key, or another client gets that key."""
    file = tmp_path / "keys.json"

    def write(keys: dict[str, str]) -> None:
        fresh = tmp_path / "fresh.json"
        fresh.write_text(json.dumps(keys))
        fresh.replace(file)  # another inode: the change is seen within one tick of the clock

    for after in ({"other": "ann"}, {"key": "bob"}):
        write({"key": "ann", "other": "ann"})
        keys = KeyRing(api_key=None, file=file)
        known = ClientSecrets(keys)
        value, _ = known.issue(keys.caller(b"Bearer key"), 60, SessionConfig())
        assert known.find(value.encode()) is not None
        write(after)
        assert known.find(value.encode()) is None


def test_the_number_of_valid_secrets_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secrets, "MAX_SECRETS", 2)
    now = 0.0
    known = ClientSecrets(OPEN, clock=lambda: now)
    for _ in range(2):
        known.issue(ANYONE, 60, SessionConfig())
    with pytest.raises(Overloaded):
        known.issue(ANYONE, 60, SessionConfig())
    now = 61
    known.issue(ANYONE, 60, SessionConfig())
