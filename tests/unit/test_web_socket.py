"""What `up --websocket` takes: origins as browsers send them, ports, and the options as they are handed on."""

from __future__ import annotations

import click
import pytest

from services.cli.up import web_socket_arguments, web_socket_asked
from services.nats_server.web_socket import DEFAULT_ORIGINS, WebSocketOptions, checked_origin


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ("http://localhost:5173", "http://localhost:5173"),
        ("HTTP://Localhost:80", "http://localhost:80"),
        ("https://trainer.example", "https://trainer.example"),
        ("http://[::1]:8080", "http://[::1]:8080"),
    ],
)
def test_an_origin_is_what_a_browser_sends(given: str, sent: str) -> None:
    assert checked_origin(given) == sent


@pytest.mark.parametrize(
    "given",
    [
        *(
            "",
            "*",
            "localhost",
            "localhost:8080",
            "http://",
            "http://localhost:8080/",
            "http://localhost/page",
        ),
        *(
            "http://a@localhost",
            "http://localhost:x",
            "http://localhost:99999",
            "ws://localhost:1",
            "http://ü.example",
        ),
        *("http://localhost?x", "http://localhost#x", "http://[::1", "http://local host"),
    ],
)
def test_what_is_no_origin_is_refused_with_what_is_accepted(given: str) -> None:
    with pytest.raises(ValueError, match="http://HOST:PORT or https://HOST"):
        checked_origin(given)


@pytest.mark.parametrize("given", ["null", "file://", "file:///home/me/page.html"])
def test_a_page_from_a_file_is_refused_with_why(given: str) -> None:
    with pytest.raises(ValueError, match="serve it on localhost"):
        checked_origin(given)


def test_the_options_ask_for_a_listener() -> None:
    assert web_socket_asked(None, ()) is None
    assert web_socket_asked(0, ()) == WebSocketOptions(None, DEFAULT_ORIGINS)
    assert web_socket_asked(9, ("http://a", "http://B", "http://b")) == WebSocketOptions(
        9, ("http://a", "http://b")
    )


def test_origins_without_a_listener_are_refused() -> None:
    with pytest.raises(click.UsageError, match="goes with --websocket"):
        web_socket_asked(None, ("http://localhost:1",))
    with pytest.raises(click.BadParameter, match="is no origin"):
        web_socket_asked(0, ("null",))


def test_they_are_handed_on_as_they_were_given() -> None:
    assert web_socket_arguments(None, ()) == []
    assert web_socket_arguments(0, ()) == ["--websocket", "any"]
    assert web_socket_arguments(9, ("http://a",)) == ["--websocket", "9", "--websocket-origin", "http://a"]
