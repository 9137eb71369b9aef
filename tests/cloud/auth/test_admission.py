"""When a cloud is locked: its settings, its address, and the file of tokens; the first token is shown once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cloud.admission import default_tokens, make_gate
from cloud.settings import AuthSettings, CloudSettings, TlsSettings
from shared.errors import NotReadyError, PermissionDeniedError, RequestError, UnauthorizedError
from shared.process.access import access
from shared.process.auth import Credentials
from shared.process.tokens import TokenGrant, add_token, read_tokens
from support.processes import refused, run_here

ADMIN = access("admin")
GIVEN = "0123456789abcdef0123456789abcdef"


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return tmp_path / "isthmus" / "tokens.json"


def settings(host: str = "127.0.0.1", **auth: Any) -> CloudSettings:
    return CloudSettings(host=host, auth=AuthSettings(**auth))


async def test_loopback_without_tokens_is_open_and_makes_none(state: Path, capsys: Any) -> None:
    for host in ("127.0.0.1", "::1", "localhost"):
        gate = make_gate(settings(host))
        assert not gate.locked
        await gate.admit(Credentials(), ADMIN)
    assert not state.exists()
    assert capsys.readouterr().err == ""
    # Where an operator has made tokens, they hold: in a server that runs already too.
    early = await gate.admit(Credentials(), ADMIN)
    early.check()
    token = add_token(default_tokens(), TokenGrant("a", ("admin",)))
    for one in (gate, make_gate(settings())):
        assert one.locked
        with pytest.raises(UnauthorizedError):
            await one.admit(Credentials(), ADMIN)
        await one.admit(Credentials(token), ADMIN)
    with pytest.raises(UnauthorizedError):  # nor does a stream that was open go on
        early.check()
    state.unlink()  # which opens nothing
    with pytest.raises(NotReadyError):
        await gate.admit(Credentials(token), ADMIN)
    with pytest.raises(UnauthorizedError):
        await gate.admit(Credentials(), ADMIN)


async def test_the_first_start_elsewhere_shows_a_token_once(
    state: Path, capsys: Any, caplog: pytest.LogCaptureFixture
) -> None:
    gate = make_gate(settings("0.0.0.0"))
    shown = capsys.readouterr()
    [line] = [line for line in shown.err.splitlines() if "first token" in line]
    token = line.rpartition(" ")[2]
    assert token not in caplog.text
    assert shown.out == ""
    assert "no TLS" in caplog.text
    assert token not in state.read_text()
    await gate.admit(Credentials(token), ADMIN)
    with pytest.raises(UnauthorizedError):
        await gate.admit(Credentials(), ADMIN)
    again = make_gate(settings("0.0.0.0"))
    assert capsys.readouterr().err == ""
    await again.admit(Credentials(token), ADMIN)
    assert len(read_tokens(state)) == 1


async def test_a_given_token_is_enough(state: Path, capsys: Any, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(f"{GIVEN}\n")
    for how in ({"token": GIVEN}, {"token_file": file}):
        gate = make_gate(settings("0.0.0.0", **how))
        await gate.admit(Credentials(GIVEN), ADMIN)
        with pytest.raises(UnauthorizedError):
            await gate.admit(Credentials(), ADMIN)
    assert make_gate(settings(token=GIVEN)).locked  # on loopback too
    assert not state.exists()
    assert capsys.readouterr().err == ""


async def test_insecure_says_so_and_keeps_administration_closed(
    state: Path, caplog: pytest.LogCaptureFixture
) -> None:
    gate = make_gate(settings("0.0.0.0", insecure=True))
    assert "insecure: whoever reaches 0.0.0.0" in caplog.text
    await gate.admit(Credentials(), access("analyze"))
    with pytest.raises(PermissionDeniedError):
        await gate.admit(Credentials(), ADMIN)
    assert not state.exists()
    with pytest.raises(RequestError, match="insecure asks nobody"):
        make_gate(settings("0.0.0.0", insecure=True, token=GIVEN))


def test_what_cannot_be_used_is_named(state: Path, tmp_path: Path) -> None:
    (tmp_path / "damaged").write_text('{"version": 1, "tokens": [{}]}')
    with pytest.raises(RequestError, match=r"no file of tokens: tokens\.0\.id"):
        make_gate(settings(tokens=tmp_path / "damaged"))
    (tmp_path / "spaces").write_text("a token with spaces in it")
    with pytest.raises(RequestError, match="has a space"):
        make_gate(settings(token_file=tmp_path / "spaces"))
    (tmp_path / "file").touch()
    with pytest.raises(RequestError, match="cannot write"):
        make_gate(settings("0.0.0.0", tokens=tmp_path / "file" / "tokens.json"))
    for wrong, text in (
        ({"certificate": tmp_path}, "given together"),
        ({"client_ca": tmp_path}, "needs a certificate"),
    ):
        with pytest.raises(RequestError, match=text):
            TlsSettings.of(**wrong)
    with pytest.raises(RequestError, match="is no origin"):
        AuthSettings.of(cors_origins="https://a.example.org/page")


def test_the_commands(tmp_path: Path) -> None:
    file = tmp_path / "tokens.json"
    here = ("--tokens", file)
    done = run_here("cloud", "token", "add", "gate", "--camera", "gate-*", "--expires", "90d", *here)
    assert done.returncode == 0
    token = done.stdout.strip()
    assert token.startswith("isthmus_")
    assert "this once" in done.stderr
    listed = run_here("cloud", "token", "list", *here).stdout
    assert "gate" in listed
    assert "cameras gate-*" in listed
    assert token not in listed + run_here("cloud", "token", "list", "--json", *here).stdout
    assert "rotate it" in refused("cloud", "token", "add", "gate", *here, status=2)
    assert "is no scope" in refused("cloud", "token", "add", "b", "--scope", "all", *here, status=2)
    assert "(--expires)" in refused("cloud", "token", "add", "b", "--expires", "soon", *here, status=2)
    assert "in the past" in refused("cloud", "token", "add", "b", "--expires", "2020-01-01", *here, status=2)
    new = run_here("cloud", "token", "rotate", "gate", "--keep-old", "1h", *here).stdout.strip()
    assert new != token
    assert len(read_tokens(file)) == 2
    assert run_here("cloud", "token", "revoke", "gate", *here).stdout == "gate: 2 tokens revoked\n"
    assert "no token 'gate'" in refused("cloud", "token", "revoke", "gate", *here, status=2)
    assert "no tokens at" in refused("cloud", "token", "list", "--tokens", tmp_path / "none", status=2)
