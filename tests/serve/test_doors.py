"""Who may come in, how much may be sent, and what every answer carries."""

from __future__ import annotations

import base64
import json
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx2 as httpx
import pytest
from tests.serve.conftest import Serving, serving

from ssd1b.base.errors import RequestError
from ssd1b.serve.doors import PUBLIC
from ssd1b.serve.limits import Limits
from ssd1b.serve.settings import Settings

KEY = "0123456789abcdef-key"


@pytest.fixture(scope="module")
def locked(models: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """A server with a key and small limits."""
    settings = Settings(
        Path(tmp_path_factory.mktemp("locked")), models, api_key=KEY, limits=Limits(body_bytes=10_000)
    )
    with serving(settings) as running:
        yield running


def paths_of(server: Serving) -> list[tuple[str, str]]:
    document = httpx.get(f"{server.url}/openapi.json", headers={"authorization": f"Bearer {KEY}"}).json()
    return [(method.upper(), path) for path, methods in document["paths"].items() for method in methods]


def test_every_route_asks_for_the_key_or_is_public_on_purpose(locked: Serving) -> None:
    routes = [*paths_of(locked), ("GET", "/openapi.json"), ("GET", "/no/such/path")]
    assert len(routes) > 25
    for method, path in routes:
        status = httpx.request(method, locked.url + path.replace("{name}", "x")).status_code
        assert (status == 401) == (path not in PUBLIC), (method, path, status)


@pytest.mark.parametrize(
    "header",
    [f"Bearer {KEY}", f"bearer {KEY}", "Basic " + base64.b64encode(f"me:{KEY}".encode()).decode()],
)
def test_the_key_opens_as_a_token_and_as_a_password(locked: Serving, header: str) -> None:
    assert httpx.get(f"{locked.url}/v1/models", headers={"authorization": header}).status_code == 200


@pytest.mark.parametrize(
    "header", ["", "Bearer", f"Bearer {KEY}x", f"Bearer {KEY[:-1]}", "Basic !!", f"Token {KEY}", "Basic bWU6"]
)
def test_nothing_else_does(locked: Serving, header: str) -> None:
    answer = httpx.get(f"{locked.url}/v1/models", headers={"authorization": header})
    assert answer.status_code == 401 and answer.json()["error"]["code"] == "invalid_api_key"


def test_a1111_gets_its_own_shape_of_error_and_no_secret(locked: Serving) -> None:
    assert "detail" in httpx.get(f"{locked.url}/sdapi/v1/options").json()
    told = httpx.get(f"{locked.url}/sdapi/v1/cmd-flags", headers={"authorization": f"Bearer {KEY}"}).text
    assert KEY not in told


def test_a_name_that_was_bent_to_this_machine_is_refused(server: Serving) -> None:
    for host in ("evil.example", "evil.example:7860", "127.0.0.1.evil.example"):
        answer = httpx.get(f"{server.url}/v1/models", headers={"host": host})
        assert answer.status_code == 403 and answer.json()["error"]["code"] == "wrong_host"
    for host in (f"localhost:{server.port}", "127.0.0.1", "[::1]:1"):
        assert httpx.get(f"{server.url}/v1/models", headers={"host": host}).status_code == 200


def test_other_web_sites_cannot_ask(server: Serving) -> None:
    body = {"prompt": "a fox"}
    for origin in ("https://evil.example", "null", "http://localhost:1"):
        answer = httpx.post(f"{server.url}/v1/jobs", json=body, headers={"origin": origin})
        assert answer.status_code == 403 and answer.json()["error"]["code"] == "wrong_origin"
    plain = {"content-type": "text/plain"}
    answer = httpx.post(f"{server.url}/v1/jobs", content=json.dumps(body), headers=plain)
    assert answer.status_code == 415
    assert "access-control-allow-origin" not in httpx.get(f"{server.url}/v1/models").headers


def test_a_body_is_cut_off_where_it_becomes_too_large(locked: Serving) -> None:
    headers = {"authorization": f"Bearer {KEY}", "content-type": "application/json"}
    announced = httpx.post(f"{locked.url}/v1/jobs", content=b"x" * 20_000, headers=headers)
    assert announced.status_code == 413

    def drip() -> Iterator[bytes]:
        for _ in range(100):
            yield b"x" * 1_000

    assert httpx.post(f"{locked.url}/v1/jobs", content=drip(), headers=headers).status_code == 413
    answer = httpx.post(f"{locked.url}/v1/jobs", content=b"{" * 9_000, headers=headers)
    assert answer.status_code == 400 and answer.json()["error"]["type"] == "invalid_request_error"


def test_every_answer_keeps_scripts_and_frames_out(server: Serving) -> None:
    for path in ("/", "/v1/models", "/no/such"):
        headers = httpx.get(server.url + path).headers
        assert "script-src 'self'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff" and headers["x-frame-options"] == "DENY"


@pytest.mark.parametrize(
    "path", ["/page/../../../etc/passwd", "/page/..%2f..%2fapp.py", "/page/%00", "/page//etc/passwd"]
)
def test_the_page_is_all_that_lies_below_it(server: Serving, path: str) -> None:
    with socket.create_connection(("127.0.0.1", server.port)) as raw:
        raw.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        answer = b""
        while chunk := raw.recv(65536):
            answer += chunk
    assert answer.split()[1] in (b"404", b"405") and b"root:" not in answer


@pytest.mark.parametrize(
    "settings, said",
    [
        ({"host": "0.0.0.0"}, "anybody who can reach"),
        ({"host": "::"}, "anybody who can reach"),
        ({"api_key": "short"}, "at least 16"),
    ],
)
def test_a_server_that_is_open_to_all_does_not_start(
    settings: dict[str, str], said: str, tmp_path: Path
) -> None:
    with pytest.raises(RequestError, match=said):
        Settings(tmp_path, **settings).refuse_unsafe()  # type: ignore[arg-type]
    Settings(tmp_path, host="0.0.0.0", api_key=KEY).refuse_unsafe()
    Settings(tmp_path, host="::1").refuse_unsafe()
