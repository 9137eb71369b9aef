"""Two servers with one table, as processes: a token, a rollout, and a database that is away."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from cloud.settings import CloudSettings, StateSettings
from cloud.state.tokens import StateTokens
from shared.bundle import Bundle
from shared.encoder import Encoder
from shared.errors import RequestError
from shared.process.tokens import TokenGrant, add_token, revoke_token
from support.postgres import postgres
from support.processes import refused, run_here, server
from support.service import png
from support.shelves import variants


def eventually(what: Callable[[], bool], seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < until
        time.sleep(0.05)


def test_two_servers_with_one_table(tiny_bundle: Path, tmp_path: Path) -> None:
    bundles, file = tmp_path / "bundles", tmp_path / "state.sqlite3"
    variants(tiny_bundle, bundles, 2)
    config, state = tmp_path / "cloud.toml", f"sqlite://{file}"
    config.write_text("[state]\nstale_max_ms = 5000\npoll_ms = 100\n[engine]\nthreads = 1\n")
    done = run_here(
        "cloud", "token", "add", "ops", "--scope", "admin", "--scope", "analyze", "--state", state
    )
    ops = done.stdout.strip()
    serve = ("cloud", "serve", "--config", config, "--bundles", bundles, "--default", "b0", "--state", state)
    ports = ("--grpc-port", "0", "--http-port", "0")
    with server(*serve, *ports) as first, server(*serve, *ports) as second:
        addresses = [one.event("listening")["http"] for one in (first, second)]
        for one in (first, second):
            one.event("ready")
        with (
            httpx.Client(base_url=f"http://{addresses[0]}", timeout=60) as a,
            httpx.Client(base_url=f"http://{addresses[1]}", timeout=60) as b,
        ):
            _follow_tokens(a, b, state)
            for client in (a, b):
                client.headers["Authorization"] = f"Bearer {ops}"
            _roll_out(a, b, bundles)
            _outlive_the_database(a, b, file)
        assert [one.stop() for one in (first, second)] == [0, 0]


def _follow_tokens(a: httpx.Client, b: httpx.Client, state: str) -> None:
    assert a.get("/v1/bundles").status_code == b.get("/v1/bundles").status_code == 401
    token = run_here("cloud", "token", "add", "box", "--state", state).stdout.strip()
    bearer = {"Authorization": f"Bearer {token}"}

    def both(status: int) -> bool:
        return {one.get("/v1/bundles", headers=bearer).status_code for one in (a, b)} == {status}

    eventually(lambda: both(200))
    assert run_here("cloud", "token", "revoke", "box", "--state", state).returncode == 0
    eventually(lambda: both(401))


def _roll_out(a: httpx.Client, b: httpx.Client, bundles: Path) -> None:
    for one in (a, b):
        eventually(lambda one=one: len(one.get("/bundles").json()) == 2)
    begun = a.post("/admin/rollout", params={"bundle": "b1", "to": "all", "requests_min": 1000})
    assert begun.status_code == 200, begun.text

    def rollout(one: httpx.Client) -> Any:
        return one.get("/admin/rollout").json()

    eventually(lambda: rollout(b)["plan"] == begun.json()["plan"])
    packed = Encoder(Bundle.open(bundles / "b1")).encode(png(0)).data
    for number, one in enumerate((a, b, b)):
        headers = {
            "Content-Type": "application/vnd.isthmus",
            "X-Camera": "door",
            "X-Request-ID": f"n{number}",
        }
        answer = one.post("/analyze", content=packed, headers=headers)
        assert answer.status_code == 200, answer.text
    for one in (a, b):
        eventually(lambda one=one: [f["requests"] for f in rollout(one)["figures"]] == [0, 3])
    assert rollout(a)["servers"] == 2
    assert b.post("/admin/rollout/back").status_code == 200
    eventually(lambda: rollout(a)["plan"]["back"])


def _outlive_the_database(a: httpx.Client, b: httpx.Client, file: Path) -> None:
    def statuses() -> set[int]:
        return {one.get("/v1/bundles").status_code for one in (a, b)}

    def troubles() -> list[dict[str, str]]:
        return [one.get("/readyz").json().get("troubles", {}) for one in (a, b)]

    file.rename(hidden := file.with_suffix(".hidden"))
    eventually(lambda: all("state" in one for one in troubles()))
    eventually(lambda: statuses() == {503})  # once the last known state is too old
    assert a.get("/healthz").status_code == 200
    hidden.rename(file)
    eventually(lambda: statuses() == {200})
    assert troubles() == [{}, {}]


def test_commands_and_settings(tmp_path: Path) -> None:
    tokens, state = tmp_path / "tokens.json", f"sqlite://{tmp_path / 'state'}"
    here = ("--tokens", tokens)
    assert run_here("cloud", "token", "add", "gate", *here).returncode == 0
    assert "name the table" in refused("cloud", "token", "import", tokens, status=2)
    taken = run_here("cloud", "token", "import", tokens, "--state", state)
    assert taken.stdout == f"{tokens}: 1 tokens taken, 0 were there\n"
    assert "gate" in run_here("cloud", "token", "list", "--state", state).stdout
    new = run_here("cloud", "token", "rotate", "gate", "--state", state)
    assert new.stdout.startswith("isthmus_")
    assert "give either" in refused("cloud", "token", "list", *here, "--state", state, status=2)
    assert "cannot be reached" in refused("cloud", "token", "list", "--state", f"{state}2", status=1)
    assert not (tmp_path / "state2").exists()
    assert "none of sqlite" in refused("cloud", "token", "list", "--state", "mysql://db", status=2)
    both = ("cloud", "serve", *here, "--state", state)
    assert "give one of them" in refused(*both, status=2)
    shown = run_here(
        "cloud", "serve", "--state", "postgresql://me:s3cret@db/isthmus", "--print-config"
    ).stdout
    assert "s3cret" not in shown
    with pytest.raises(RequestError, match="at least 1000"):
        StateSettings.of(stale_max_ms=1)
    assert CloudSettings().state.url is None


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_how_soon_two_servers_see_a_token_in_postgresql(tiny_bundle: Path, tmp_path: Path) -> None:
    """Prints the seconds (`pytest -m slow -s`), and stops the database under both."""
    config = tmp_path / "cloud.toml"
    config.write_text("[engine]\nthreads = 1\n[auth]\nattempts_per_minute = 10000\n")
    ports = ("--bundle", tiny_bundle, "--grpc-port", "0", "--http-port", "0")
    with postgres() as base, ExitStack() as stack:
        store = StateTokens(base.url)
        kept = {"Authorization": f"Bearer {add_token(store, TokenGrant('kept', ('analyze',)))}"}
        serve = ("cloud", "serve", "--config", config, "--state", base.url, *ports)
        servers = [stack.enter_context(server(*serve)) for _ in range(2)]
        urls = [f"http://{one.event('listening')['http']}" for one in servers]
        for one in servers:
            one.event("ready", 300)
        clients = [stack.enter_context(httpx.Client(base_url=url, timeout=60)) for url in urls]

        def seen(headers: dict[str, str], status: int) -> float:
            began = time.monotonic()
            for one in clients:
                eventually(lambda one=one: one.get("/v1/bundles", headers=headers).status_code == status)
            return time.monotonic() - began

        added, revoked = [], []
        for number in range(8):
            token = add_token(store, TokenGrant(f"t{number}", ("analyze",)))
            added.append(seen(headers := {"Authorization": f"Bearer {token}"}, 200))
            revoke_token(store, f"t{number}")
            revoked.append(seen(headers, 401))
        for what, seconds in (("added", added), ("revoked", revoked)):
            print(f"{what}: seen by both after {', '.join(f'{one:.2f}' for one in sorted(seconds))} s")
        base.stop()
        for one in clients:
            eventually(lambda one=one: "state" in one.get("/readyz").json().get("troubles", {}))
        assert seen(kept, 200) < 60
        base.start()
        for one in clients:
            eventually(lambda one=one: "troubles" not in one.get("/readyz").json())
        revoke_token(store, "kept")
        assert seen(kept, 401) < 60
        assert [one.stop() for one in servers] == [0, 0]
