"""The spool: what was accepted stays until it is acknowledged, within bounds, whatever the disk does."""

from __future__ import annotations

import os
import random
import resource
import shutil
import sqlite3
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, suppress
from datetime import UTC, datetime
from pathlib import Path
from tempfile import mkdtemp
from typing import Any
from uuid import UUID

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, precondition, rule

from edge.spool.records import ROW_BYTES, Ids, NewFrame, check, spooled_of
from edge.spool.spool import Spool
from edge.spool.store import FILE
from shared.errors import DataError

START_US = 1_764_400_000_000_000
FRAME = 100 + ROW_BYTES + 2  # cost of `frame`


def frame(data: bytes = bytes(100), source: str = "door", **more: Any) -> NewFrame:
    return NewFrame(source, "01234567", data, **more)


def taken(ids: list[str | None]) -> list[str]:
    assert None not in ids
    return [one for one in ids if one is not None]


def leased(spool: Spool, count: int = 1000) -> list[str]:
    return [one.id for one in spool.lease(count)]


def test_what_goes_in_comes_out_until_it_is_acknowledged(tmp_path: Path) -> None:
    moment = datetime(2026, 11, 29, 12, 0, 0, 250, UTC)
    frames = [
        frame(b"one", captured_at=moment, origin="/in/ä.jpg", wanted='{"top_k": 3}'),
        frame(b"", source="yard"),
        frame(bytes(range(256)) * 20_000),
    ]
    with Spool(tmp_path) as spool:
        ids = taken(spool.put(frames))
        got = spool.lease(2)
        assert [(one.id, one.frame) for one in got] == list(zip(ids[:2], frames[:2], strict=True))
        assert leased(spool) == ids[2:]
        assert leased(spool) == []
        spool.give_back(ids[1:2])
        assert leased(spool) == ids[1:2]
        spool.acknowledge([ids[0], "unknown"])
        assert spool.depth == 2
        assert spool.taken("door", False) == {}
    with Spool(tmp_path) as spool:  # leases end with the process
        assert [one.frame for one in spool.lease(9)] == frames[1:]
        assert spool.state().bytes == sum(one.cost for one in frames[1:])


def test_orders_and_bundles(tmp_path: Path) -> None:
    with Spool(tmp_path, order="newest") as spool:
        ids = taken(spool.put([frame(), NewFrame("door", "89abcdef", b"x"), frame()]))
        assert leased(spool) == ids[::-1]
        spool.give_back(ids)
        assert [one.id for one in spool.lease(9, {"89abcdef"})] == [ids[1]]
        assert spool.lease(9, set()) == []


def test_files_that_are_kept_are_remembered(tmp_path: Path) -> None:
    inbox = tmp_path / "in"
    inbox.mkdir()
    files = [str(inbox / name) for name in ("a.png", "b.png", "c.png")]
    for file in files:
        Path(file).touch()
    with Spool(tmp_path / "spool") as spool:
        ids = spool.put([frame(origin=file, version=(5, i)) for i, file in enumerate(files[:2])])
        spool.put(
            [frame(origin=files[2], source="yard"), frame(origin=files[2], source="hall", version=(1, 1))]
        )
        spool.acknowledge(taken(ids))
    with Spool(tmp_path / "spool") as spool:
        assert spool.taken("door", True) == {files[0]: (5, 0), files[1]: (5, 1)}
        assert (
            spool.taken("door", False) == {}
        )  # the setting has changed: what lies there is moved or deleted
        assert spool.taken("yard", True) == {files[2]: None}
        spool.put([frame(origin=files[0], version=(6, 7))])
        inbox.rename(tmp_path / "away")  # a disk that is not there now
        assert spool.taken("door", True) == {files[0]: (6, 7), files[1]: (5, 1)}
        inbox.mkdir()
        assert len(spool.taken("door", True)) == 2
        inbox.rmdir()
        (tmp_path / "away").rename(inbox)
        Path(files[1]).unlink()
        assert spool.taken("door", True) == {files[0]: (6, 7)}
        Path(files[1]).touch()
        assert spool.taken("door", True) == {files[0]: (6, 7)}


def test_frames_that_may_have_been_sent(tmp_path: Path) -> None:
    def again(spool: Spool, count: int = 1000) -> list[bool]:
        return [one.again for one in spool.lease(count)]

    with Spool(tmp_path) as spool:
        ids = taken(spool.put([frame(id=f"s.{'0' * 32}.{n}") for n in range(1, 4)]))
        assert ids[0] == f"s.{'0' * 32}.1"
        assert again(spool, 2) == [False, False]
        spool.give_back(ids[:1])
        spool.give_back(ids[1:2], sent=True)
        assert again(spool) == [False, True, False]
        spool.acknowledge(ids[:1])
    with Spool(tmp_path) as spool:  # which of them were leased is not known exactly
        spool.put([frame() for _ in range(200)])
        assert again(spool, 3) == [True, True, False]
    with Spool(tmp_path) as spool:  # the mark goes ahead by 64 frames, so that it is seldom written
        upto = 2 + 64
        assert again(spool) == [number <= upto for number in range(2, 204)]


def test_a_spool_of_an_earlier_release(tmp_path: Path) -> None:
    with Spool(tmp_path) as spool:
        ids = spool.put([frame()])
    with closing(sqlite3.connect(tmp_path / FILE)) as db:
        db.executescript("DROP TABLE files; DROP TABLE sent; PRAGMA user_version = 1")
    with Spool(tmp_path) as spool:
        assert leased(spool) == ids
        file = str(tmp_path / "spool.lock")
        assert spool.put([frame(origin=file, version=(1, 2))]) != [None]
        assert spool.taken("door", True) == {file: (1, 2)}


@pytest.mark.parametrize("how", ["full", "age"])
def test_nothing_is_kept_of_a_frame_that_went(tmp_path: Path, how: str) -> None:
    """Also where it may have been sent: a box that runs for a year must not remember them all."""
    now, name = [START_US], f"s.{'0' * 32}.1"
    with Spool(tmp_path, bytes_max=3 * FRAME, age_max_s=60, clock=lambda: now[0]) as spool:
        spool.put([frame(id=name)])
        spool.give_back(leased(spool), sent=True)
        if how == "full":
            spool.put([frame() for _ in range(3)])
        else:
            now[0] += 61_000_000
        assert sum(spool.state().drops.values()) == 1
        spool.acknowledge(leased(spool))
        spool.put([frame(id=name)])
        assert [one.again for one in spool.lease(9)] == [False]


@pytest.mark.parametrize(("full", "kept", "drops"), [
    ("drop-oldest", [2, 3, 4], {"oldest": 2}),
    ("drop-newest", [0, 1, 2], {"newest": 2}),
    ("stop", [0, 1, 2], {}),
])  # fmt: skip
def test_a_full_spool(tmp_path: Path, full: Any, kept: list[int], drops: dict[str, int]) -> None:
    with Spool(tmp_path, bytes_max=3 * FRAME, full=full) as spool:
        ids = [spool.put([frame(bytes([i]) * 100)])[0] for i in range(5)]
        assert [one.frame.data[0] for one in spool.lease(9)] == kept
        assert spool.state().drops == drops
        assert (None in ids) == (full != "drop-oldest")
        # What is being sent is not dropped for others, and what is larger than the spool never fits.
        assert spool.put([frame()]) == [None]
        spool.acknowledge(leased_ := [one for one in ids if one])
        assert spool.put([frame(bytes(3 * FRAME))]) == [None]
        assert leased_
        assert spool.state().drops["newest"] >= 1


def test_age(tmp_path: Path) -> None:
    now = [START_US]
    with Spool(tmp_path, age_max_s=60, clock=lambda: now[0]) as spool:
        first = taken(spool.put([frame(), frame()]))
        assert spool.lease(1)[0].id == first[0]
        now[0] += 50_000_000
        spool.put([frame()])
        assert spool.state().age_s == 50
        now[0] += 11_000_000
        assert spool.state().drops == {"age": 1}  # one of the first two is being sent
        assert (spool.depth, spool.state().age_s) == (2, 61)
        now[0] = 1_000_000  # the clock is lost: nothing has an age
        spool.put([frame()])
        now[0] = START_US + 62_000_000
        assert spool.depth == 3


def test_ids_rise_and_are_version_7(tmp_path: Path) -> None:
    ids = Ids()
    made = [ids.next(START_US - i) for i in range(200)]  # the clock goes back
    made += [Ids(made[-1]).next(0)]
    assert made == sorted(set(made))
    assert {(UUID(one).version, UUID(one).variant) for one in made} == {(7, "specified in RFC 4122")}
    assert int(made[0][:12], 16) == START_US // 1000
    last = f"{0x7FFF << 64 | 2 << 62 | (1 << 62) - 1:032x}"  # its random bits are used up
    after = Ids(last).next(0)
    assert after > last
    assert UUID(after).version == 7
    Ids("nonsense").next(START_US)


def test_one_process_has_a_spool(tmp_path: Path) -> None:
    with Spool(tmp_path), pytest.raises(DataError, match="spool of another process"):
        Spool(tmp_path)
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(DataError, match=f"cannot keep a spool in {file}"):
        Spool(file)


def test_a_file_of_a_later_release_is_left_alone(tmp_path: Path) -> None:
    Spool(tmp_path).close()
    with closing(sqlite3.connect(tmp_path / FILE)) as db:
        db.execute("PRAGMA user_version = 99")
    with pytest.raises(DataError, match="later release"):
        Spool(tmp_path)


def flip(path: Path, at: int, bit: int = 0) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1 << bit]))


def test_a_damaged_file_is_set_aside(tmp_path: Path) -> None:
    for number in (1, 2):
        with Spool(tmp_path) as spool:
            spool.put([frame()] * 20)
        (tmp_path / FILE).write_bytes(b"no database" * 1000)
        with Spool(tmp_path) as spool:
            assert spool.state().damaged_files == (f"{FILE}.damaged-{number}",)
            assert leased(spool) == []
            assert spool.put([frame()]) != [None]
        assert (tmp_path / f"{FILE}.damaged-{number}").exists()


def test_a_file_damaged_while_it_is_open(tmp_path: Path) -> None:
    with Spool(tmp_path) as spool:
        spool.put([frame(bytes(100_000))] * 60)  # more than SQLite keeps in memory
        ids = leased(spool, 3)
        size = (tmp_path / FILE).stat().st_size
        (tmp_path / FILE).write_bytes(os.urandom(size))
        for _ in range(4):
            spool.put([frame(bytes(100_000))] * 20)
            spool.acknowledge(ids)
            ids = leased(spool)
        assert len(spool.state().damaged_files) == 1
        assert spool.put([frame()]) != [None]


def test_flipped_bits(tmp_path: Path) -> None:
    """Whatever bit is wrong: no exception, no frame that differs from what was put, and the spool goes on."""
    frames = [frame(bytes([i]) * (40 + 97 * i)) for i in range(20)]
    with Spool(tmp_path / "whole") as spool:
        given = dict(zip(taken(spool.put(frames)), frames, strict=True))
    size = (tmp_path / "whole" / FILE).stat().st_size
    rng = random.Random(0)
    seen = Counter[str]()
    for number in range(40):
        path = tmp_path / f"{number}"
        shutil.copytree(tmp_path / "whole", path)
        flip(path / FILE, rng.randrange(size), rng.randrange(8))
        try:
            spool = Spool(path)
        except DataError:  # the bit made a version of a later release
            seen["later"] += 1
            continue
        with spool:
            got = spool.lease(100)
            state = spool.state()
            seen["set aside"] += len(state.damaged_files)
            seen["dropped"] += state.drops.get("damaged", 0)
            seen["intact"] += len(got) == 20
            assert all(given[one.id] == one.frame for one in got)
            assert len(got) + state.drops.get("damaged", 0) == 20 or state.damaged_files
            spool.acknowledge(one.id for one in got)
            assert spool.put([frame()]) != [None]
    assert all(seen[kind] for kind in ("set aside", "dropped", "intact")), seen


def test_every_bit_of_a_record_counts() -> None:
    head, data = ("id", "door", "01234567", None, 5, "{}", ""), b"data"
    assert spooled_of((*head, data, check(head, data))).frame.data == data
    for i, other in enumerate(("ie", "doos", "0123456", 1, 4, "{ ", "x")):
        changed = (*head[:i], other, *head[i + 1 :])
        with pytest.raises(ValueError, match="check"):
            spooled_of((*changed, data, check(head, data)))
    for row in (
        (),
        (*head, data),
        (*head, "text", 1),
        (*head, None, None),
        (*head, b"date", check(head, data)),
    ):
        with pytest.raises(ValueError):  # noqa: PT011 - of any text
            spooled_of(row)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB."""
    mounted = tmp_path / "disk"
    mounted.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(mounted)]
    if os.geteuid() or not shutil.which("mount") or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mounting a small file system takes root and the capability to")
    yield mounted
    subprocess.run(["umount", str(mounted)], check=True)


def batch() -> list[NewFrame]:
    return [frame(os.urandom(16_000))] * 4


def test_a_full_disk(small_disk: Path) -> None:
    """What it does not take is counted; what was accepted stays; its room is used again."""
    with Spool(small_disk / "spool", full="drop-newest") as spool:
        accepted = [one for _ in range(60) for one in spool.put(batch()) if one]
        state = spool.state()
        assert state.drops == {"disk": 240 - len(accepted)}
        assert 40 < len(accepted) < 240
        assert "No space left" in state.trouble
        assert leased(spool) == accepted
        spool.acknowledge(accepted)
        for _ in range(20):
            ids = taken(spool.put(batch()))
            assert leased(spool) == ids
            spool.acknowledge(ids)
        assert spool.state().trouble == ""


def test_a_full_disk_drops_the_oldest(small_disk: Path) -> None:
    with Spool(small_disk / "spool") as spool:
        accepted = [one for _ in range(60) for one in taken(spool.put(batch()))]
        kept = leased(spool)
        assert kept == accepted[-len(kept) :]
        assert spool.state().drops == {"oldest": 240 - len(kept)}


def test_a_disk_that_takes_no_more_writes(tmp_path: Path) -> None:
    """What is there is sent all the same, as what may be sent again; the rest waits until the disk takes writes."""
    with Spool(tmp_path) as spool:
        first, second = taken(spool.put([frame(id=f"s.{'0' * 32}.{n}") for n in (1, 2)]))
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        # Every write fails, as where a disk turns read-only.
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
        try:
            assert spool.put([frame()]) == [None]
            assert spool.state().drops == {"disk": 1}
            assert "disk refused" in spool.state().trouble
            assert [(one.id, one.again) for one in spool.lease(9)] == [(first, True), (second, True)]
            spool.acknowledge([first])
            spool.give_back([second])
            assert leased(spool) == [second]
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert spool.put([frame()]) != [None]
        assert spool.state().depth == 2
        assert spool.state().trouble == ""


def test_a_disk_that_is_read_only(small_disk: Path) -> None:
    with Spool(small_disk / "spool") as spool:
        spool.put([frame()])
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(DataError, match=r"cannot keep a spool in .*: Read-only file system"):
        Spool(small_disk / "spool")


def fill_up(path: Path) -> None:
    with suppress(OSError), path.open("wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass


def test_a_disk_that_others_fill(small_disk: Path) -> None:
    """Nothing can be written, not even that a frame is done with; both go on once there is room."""
    with Spool(small_disk / "spool") as spool:
        first, second = taken(spool.put([frame(), frame()]))
        fill = small_disk / "other"
        fill_up(fill)
        for _ in range(300):
            assert spool.put([frame(bytes(4000))] * 2) == [None, None]
        assert leased(spool, 1) == [first]
        spool.acknowledge([first])
        assert leased(spool) == [second]
        assert leased(spool) == []
        fill.unlink()
        spool.put([frame()])
        state = spool.state()
        assert (state.depth, state.drops) == (2, {"disk": 600})
    fill_up(fill)
    with pytest.raises(DataError, match="cannot keep a spool"):
        Spool(small_disk / "another")


class Against(RuleBasedStateMachine):
    """The spool against a list."""

    ids: Bundle[str] = Bundle("ids")
    BYTES, AGE_US = 6 * FRAME, 60_000_000

    def __init__(self) -> None:
        super().__init__()
        self.path = Path(mkdtemp())
        self.now = START_US
        self.full: Any = None
        self.frames: dict[str, tuple[int, int]] = {}  # cost and time by id, in order
        self.leased: set[str] = set()
        self.drops = Counter[str]()

    def teardown(self) -> None:
        if self.full:
            self.spool.close()
        shutil.rmtree(self.path)

    def open(self) -> None:
        self.spool = Spool(self.path, self.BYTES, 60, self.full, clock=lambda: self.now)

    def age(self) -> None:
        old = [
            i for i, (_, at) in self.frames.items() if at < self.now - self.AGE_US and i not in self.leased
        ]
        for one in old:
            del self.frames[one]
        self.drops["age"] += len(old)

    @property
    def cost(self) -> int:
        return sum(cost for cost, _ in self.frames.values())

    @precondition(lambda self: self.full is None)
    @rule(full=st.sampled_from(["drop-oldest", "drop-newest", "stop"]))
    def begin(self, full: Any) -> None:
        self.full = full
        self.open()

    @precondition(lambda self: self.full)
    @rule(target=ids, size=st.sampled_from([0, 100, 400, 5 * FRAME]))
    def put(self, size: int) -> Any:
        one = frame(bytes(size))
        self.age()
        for id_ in [i for i in self.frames if i not in self.leased] if self.full == "drop-oldest" else []:
            if self.cost + min(one.cost, self.BYTES) <= self.BYTES:
                break
            del self.frames[id_]
            self.drops["oldest"] += 1
        fits = self.cost + one.cost <= self.BYTES
        (id_,) = self.spool.put([one])
        assert (id_ is not None) == fits
        if id_ is not None:
            self.frames[id_] = one.cost, self.now
        else:
            self.drops["newest"] += self.full != "stop"
        return id_ or "none"

    @precondition(lambda self: self.full)
    @rule(count=st.integers(0, 3))
    def lease(self, count: int) -> None:
        self.age()
        expected = [one for one in self.frames if one not in self.leased][:count]
        assert leased(self.spool, count) == expected
        self.leased.update(expected)

    @rule(id_=ids)
    def acknowledge(self, id_: str) -> None:
        self.spool.acknowledge([id_])
        self.frames.pop(id_, None)
        self.leased.discard(id_)

    @rule(id_=ids)
    def give_back(self, id_: str) -> None:
        self.spool.give_back([id_])
        self.leased.discard(id_)

    @rule(seconds=st.integers(0, 40))
    def wait(self, seconds: int) -> None:
        self.now += seconds * 1_000_000

    @precondition(lambda self: self.full)
    @rule()
    def restart(self) -> None:
        self.spool.close()
        self.leased.clear()
        self.drops.clear()
        self.open()

    @invariant()
    def is_as_the_list(self) -> None:
        if self.full:
            self.age()
            state = self.spool.state()
            assert (state.depth, state.bytes) == (len(self.frames), self.cost)
            assert state.drops == +self.drops
            assert state.trouble == ""


TestAgainst = Against.TestCase
TestAgainst.settings = settings(max_examples=20, stateful_step_count=30, deadline=None)
