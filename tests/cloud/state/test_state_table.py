"""The table that servers share, in SQLite and in a real PostgreSQL: tokens, what is seen of them, and a rollout."""

from __future__ import annotations

import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest

from cloud.admission import make_gate
from cloud.settings import CloudSettings
from cloud.shelf.rollout import Rollout
from cloud.state.rollouts import SharedPlans
from cloud.state.table import StateTable
from cloud.state.tokens import StateTokens, WatchedTokens, import_tokens
from cloud.state.watch import SAID_EVERY_S, StateWatch
from shared.errors import NotReadyError, RequestError, UnauthorizedError
from shared.process.access import access
from shared.process.auth import Credentials, Gate
from shared.process.tokens import TokenGrant, add_token, revoke_token
from support.postgres import Postgres, postgres

OLD, NEW = "0a" * 32, "1b" * 32
ANALYZE = access("analyze")
STALE_S = 30.0


@dataclass(frozen=True)
class Base:
    """A database, which can be away for a while."""

    url: str
    away: Callable[[], object]
    back: Callable[[], object]


@pytest.fixture(scope="module")
def running() -> Iterator[Postgres]:
    with postgres() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgres"])
def base(request: pytest.FixtureRequest, tmp_path: Path) -> Base:
    if request.param == "sqlite":
        file, hidden = tmp_path / "folder" / "state.sqlite3", tmp_path / "hidden"
        return Base(f"sqlite://{file}", lambda: file.rename(hidden), lambda: hidden.rename(file))
    server: Postgres = request.getfixturevalue("running")
    import psycopg

    with psycopg.connect(server.url) as db:
        db.execute("DROP TABLE IF EXISTS isthmus_state")
    return Base(server.url, server.stop, server.start)


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def grant(name: str) -> TokenGrant:
    return TokenGrant(name, ("analyze",))


def test_changes_at_once_lose_nothing(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also that of the table itself, which all make at once."""
    # Who waits for SQLite's lock gets it by chance: 32 changes on a busy disk may take one thread longer than 5 s.
    monkeypatch.setattr("cloud.state.table.WAIT_S", 60)

    def count(_: int) -> None:
        with StateTable(base.url).changing("n") as change:
            change.value = str(int(change.value or 0) + 1)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(count, range(24)))
        tokens = list(threads.map(lambda i: add_token(StateTokens(base.url), grant(f"t{i}")), range(8)))
    found = StateTable(base.url).get("n")
    assert found is not None
    assert (found.value, found.version) == ("24", 24)
    assert len(set(tokens)) == len(StateTokens(base.url).read()) == 8
    with pytest.raises(RequestError, match="rotate it"):
        add_token(StateTokens(base.url), grant("t3"))


def test_a_look_of_the_same_process_releases_no_lock(tmp_path: Path) -> None:
    """POSIX drops all locks that a process has on a file as soon as it closes that file anywhere."""
    file = tmp_path / "state.sqlite3"
    table = StateTable(f"sqlite://{file}")
    table.put("n", "1")
    other = "import sqlite3, sys; sqlite3.connect(sys.argv[1], 0, isolation_level=None).execute('BEGIN IMMEDIATE')"
    with table.changing("n"):
        assert StateTable(f"sqlite://{file}").get("n") == table.get("n")
        done = subprocess.run([sys.executable, "-c", other, file], capture_output=True, text=True)
        assert "database is locked" in done.stderr


def test_who_watches_reads_what_has_changed(base: Base) -> None:
    table, other = StateTable(base.url), StateTable(base.url)
    assert table.changed({}) == ({}, set())
    other.put("a", "1")
    other.put("b", "ü and %s?")
    found, names = table.changed({})
    assert names == {"a", "b"}
    known = {name: one.version for name, one in found.items()}
    assert table.changed(known) == ({}, {"a", "b"})
    other.put("a", "2")
    changed, _ = table.changed(known)
    assert {name: one.value for name, one in changed.items()} == {"a": "2"}
    other.remove("b")
    assert table.changed(known)[1] == {"a"}
    with pytest.raises(ZeroDivisionError), other.changing("a") as change:
        change.value = str(1 // 0)
    assert other.get("a") == changed["a"]
    table.close()
    other.close()


async def test_tokens_are_followed_and_the_last_known_ones_count_for_a_while(
    base: Base, caplog: pytest.LogCaptureFixture
) -> None:
    clock, store = Clock(), StateTokens(base.url)
    token = add_token(store, grant("gate"))
    watch = StateWatch(base.url, STALE_S, clock)
    gate = Gate(WatchedTokens(watch))
    with pytest.raises(NotReadyError):  # not seen yet
        await gate.admit(Credentials(token), ANALYZE)
    watch.look({})
    caller = await gate.admit(Credentials(token), ANALYZE)
    other = add_token(store, grant("other"))
    with pytest.raises(UnauthorizedError):
        await gate.admit(Credentials(other), ANALYZE)
    watch.look({})
    await gate.admit(Credentials(other), ANALYZE)
    revoke_token(store, "other")
    watch.look({})
    with pytest.raises(UnauthorizedError):
        await gate.admit(Credentials(other), ANALYZE)

    base.away()
    try:
        for clock.now_s in (1.0, STALE_S - 1):  # the second within a minute of the first: it is said once
            watch.look({})
            assert "cannot be reached" in watch.trouble
            caller.check()
        assert caplog.text.count("what was known last") == 1
        clock.now_s = STALE_S + 1
        with pytest.raises(NotReadyError, match="away for too long"):
            caller.check()
        clock.now_s = SAID_EVERY_S + 2
        watch.look({})
        assert caplog.text.count("what was known last") == 2
    finally:
        base.back()
    revoke_token(store, "gate")
    watch.look({})
    assert watch.trouble == ""
    with pytest.raises(UnauthorizedError):
        caller.check()
    watch.close()


def test_a_file_of_tokens_is_taken_over(base: Base, tmp_path: Path) -> None:
    file = tmp_path / "tokens.json"
    add_token(file, grant("a"))
    add_token(StateTokens(base.url), grant("b"))
    assert import_tokens(file, base.url) == (1, 0)
    add_token(file, grant("c"))
    assert import_tokens(file, base.url) == (1, 1)
    assert sorted(record.name for record in StateTokens(base.url).read()) == ["a", "b", "c"]


class Server:
    """The part of a server that follows the table, without its thread."""

    def __init__(self, url: str) -> None:
        self.watch = StateWatch(url, STALE_S)
        self.plans = SharedPlans(self.watch)
        self.watch.look({})
        self.rollout = Rollout(self.plans)

    def look(self) -> None:
        self.plans.exchange(self.rollout.figures())
        self.plans.follow(self.rollout)

    def note(self, count: int, bundle: str = NEW, *, failed: bool = False) -> None:
        for _ in range(count):
            self.rollout.note("door", bytes.fromhex(bundle)[:4], 30, 2.0, failed=failed)


def turn(*servers: Server) -> None:
    """Each says what it has, and hears what all have."""
    for _ in range(2):
        for server in servers:
            server.look()


def test_servers_count_together_and_decide_once(base: Base) -> None:
    one, two = Server(base.url), Server(base.url)
    one.rollout.begin(NEW, OLD, "door", errors_max=0.1, requests_min=20)
    turn(one, two)
    assert two.rollout.wanted("door", OLD) == NEW
    one.note(9)
    two.note(9)
    two.note(5, OLD)
    one.note(1, failed=True)
    turn(one, two)
    assert two.rollout.wanted("door", OLD) == NEW  # 1 of 19 failed
    assert [(f.requests, f.errors, f.cameras) for f in one.rollout.state().figures] == [(5, 0, 1), (19, 1, 0)]
    two.rollout.begin(NEW, OLD, "all", errors_max=0.1, requests_min=20)  # a wider share goes on counting
    turn(one, two)
    assert one.rollout.plan == two.rollout.plan
    two.note(2, failed=True)  # 3 of 21 in all, 2 of 11 here
    assert two.rollout.plan is not None
    assert two.rollout.plan.back
    turn(one, two)
    assert one.rollout.plan == two.rollout.plan
    assert "3 of its 21 requests failed, 0 of 5" in one.rollout.plan.reason  # type: ignore[union-attr]
    assert one.rollout.wanted("door", NEW) == OLD
    assert one.rollout.state().servers == 2
    with pytest.raises(RequestError, match="nothing is being rolled out"):
        one.rollout.back()
    three = Server(base.url)  # started later: it goes by what there is
    assert three.rollout.plan == one.rollout.plan
    three.rollout.begin(NEW, OLD, "all", errors_max=0.1, requests_min=1)
    turn(one, two, three)
    for server in (one, two, three):
        assert [figures.requests for figures in server.rollout.state().figures] == [0, 0]
    for server in (one, two, three):
        server.watch.close()


def test_a_restored_database_is_followed(base: Base) -> None:
    """Its versions may be below those that the servers have seen."""
    one, two = Server(base.url), Server(base.url)
    for to in ("1%", "2%", "all"):
        one.rollout.begin(NEW, OLD, to, errors_max=0.1, requests_min=20)
        turn(one, two)
    backup = StateTable(base.url)
    backup.remove("rollout")
    turn(one, two)
    assert one.rollout.plan is not None
    backup.put("rollout", one.rollout.plan.taken_back("before").model_dump_json())
    turn(one, two)
    for server in (one, two):
        assert server.rollout.wanted("door", NEW) == OLD
        server.watch.close()
    one.rollout.begin(NEW, OLD, "all", errors_max=0.1, requests_min=20)
    one.plans.follow(one.rollout)  # what was read before this change is no news
    assert one.rollout.wanted("door", OLD) == NEW
    turn(one, two)
    assert two.rollout.wanted("door", OLD) == NEW
    for table in (backup, one.watch, two.watch):
        table.close()


def test_a_bad_bundle_goes_back_while_the_database_is_away(base: Base) -> None:
    one, two = Server(base.url), Server(base.url)
    one.rollout.begin(NEW, OLD, "all", errors_max=0.1, requests_min=3)
    turn(one, two)
    base.away()
    try:
        one.note(3, failed=True)
        one.look()
        assert one.rollout.wanted("door", NEW) == OLD
        with pytest.raises(NotReadyError):
            one.rollout.begin(NEW, OLD, "all", errors_max=0.1, requests_min=3)
    finally:
        base.back()
    turn(one, two)
    assert two.rollout.plan is not None
    assert two.rollout.plan.reason.startswith("3 of its 3 requests failed")
    for server in (one, two):
        server.watch.close()


def test_figures_that_were_not_written_are_written_next_time(base: Base) -> None:
    one, two = Server(base.url), Server(base.url)
    one.rollout.begin(NEW, OLD, "all", errors_max=0.1, requests_min=100)
    turn(one, two)
    one.note(3)
    base.away()
    try:
        one.look()
    finally:
        base.back()
    turn(one, two)
    assert [figures.requests for figures in two.rollout.state().figures] == [0, 3]
    for server in (one, two):
        server.watch.close()


def test_a_database_that_says_nothing_is_away(running: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    import psycopg

    monkeypatch.setattr("cloud.state.table.ANSWER_S", 0.2)
    table = StateTable(running.url)
    table.put("n", "1")
    with psycopg.connect(running.url) as other:
        other.execute("LOCK TABLE isthmus_state IN ACCESS EXCLUSIVE MODE")  # until it is closed
        for ask in (lambda: table.get("n"), lambda: table.changing("n").__enter__()):
            with pytest.raises(NotReadyError, match=r"cannot be reached: no answer for 0\.2 s"):
                ask()
    monkeypatch.undo()
    found = table.get("n")
    assert found is not None
    assert found.value == "1"
    table.close()


async def test_a_gate_on_loopback_opens_once_the_database_says_that_it_has_no_tokens(
    base: Base, caplog: pytest.LogCaptureFixture
) -> None:
    """What is not known yet lets nobody in; what came since locks for good."""
    caplog.set_level("INFO", "isthmus")
    watch = StateWatch(base.url, STALE_S)
    gate = make_gate(CloudSettings(), SimpleNamespace(tokens=WatchedTokens(watch)))  # type: ignore[arg-type]
    assert gate.locked
    with pytest.raises(UnauthorizedError):
        await gate.admit(Credentials(), ANALYZE)
    with pytest.raises(NotReadyError):
        await gate.admit(Credentials("isthmus_x"), ANALYZE)
    watch.look({})
    await gate.admit(Credentials(), ANALYZE)
    assert "everybody on this machine may call" in caplog.text
    token = add_token(StateTokens(base.url), grant("gate"))
    watch.look({})
    with pytest.raises(UnauthorizedError):
        await gate.admit(Credentials(), ANALYZE)
    await gate.admit(Credentials(token), ANALYZE)
    watch.close()


def test_a_decision_that_comes_while_another_is_written_is_not_lost(
    base: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = Server(base.url)
    server.rollout.begin(NEW, OLD, "all", errors_max=0.1, requests_min=3)
    first = server.rollout.plan
    assert first is not None
    server.rollout.back()
    server.rollout.begin(NEW, OLD, "all", errors_max=0.1, requests_min=3)
    second = server.rollout.plan
    assert second is not None
    server.plans.decided(first.taken_back("late"))
    changing = StateTable.changing

    def and_decide(table: StateTable, name: str):  # type: ignore[no-untyped-def]
        server.plans.decided(second.taken_back("worse"))
        return changing(table, name)

    with monkeypatch.context() as patch:
        patch.setattr(StateTable, "changing", and_decide)
        server.plans.exchange(None)
    server.plans.exchange(None)
    assert server.plans.plan is not None
    assert server.plans.plan.reason == "worse"
    server.watch.close()


def test_addresses(tmp_path: Path) -> None:
    for wrong in ("state.db", "sqlite://", "sqlite:///", "mysql://host/db", "file:///x", ""):
        with pytest.raises(RequestError, match="none of sqlite"):
            StateTable(wrong)
    file = tmp_path / "s.db"
    StateTable(f"sqlite://{file}").put("a", "b")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    (tmp_path / "text").write_text("this is no database, and is left as it is")
    with pytest.raises(NotReadyError, match="not a database"):
        StateTable(f"sqlite://{tmp_path / 'text'}").put("a", "b")
    pytest.importorskip("psycopg", reason="comes with the extra postgres")
    secret = "postgresql://me:s3cret@127.0.0.1:1/db?password=s3cret"
    with pytest.raises(NotReadyError, match=r"127\.0\.0\.1:1/db cannot be reached") as raised:
        StateTable(secret).get("a")
    assert "s3cret" not in str(raised.value)
    for wrong in (
        "postgresql://me:s3c/ret@host/db",
        "postgresql://h/d?s3c=1",
    ):
        with pytest.raises(RequestError, match="%2F") as unread:
            StateTable(wrong)
        assert "s3c" not in str(unread.value)
