"""`isthmus inspect` and `bundle inspect`."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from shared.bundle import Bundle
from shared.codec.bitstream import Bitstream
from support.processes import ISTHMUS, ROOT, refused, run_here


def test_inspect_tells_every_field(stream: Path, tiny_bundle: Path, bundle: Bundle) -> None:
    done = run_here("inspect", stream, "--json")
    told = json.loads(done.stdout)
    read = Bitstream.unpack(stream.read_bytes())
    assert (told["h"], told["w"], told["b_v"], told["b_z"]) == (
        read.h,
        read.w,
        read.b_v.hex(),
        read.b_z.hex(),
    )
    shown = run_here("inspect", stream)
    assert all(name in shown.stdout for name in told)
    told = json.loads(run_here("inspect", tiny_bundle, "--json").stdout)
    assert told["fingerprint"] == bundle.manifest.fingerprint
    assert {f"file.{name}" for name in bundle.manifest.files} < set(told)
    shown = run_here("inspect", tiny_bundle)
    assert shown.returncode == 0
    assert bundle.manifest.fingerprint in shown.stdout


def test_inspect_reads_a_pipe(stream: Path) -> None:
    done = subprocess.run(
        [*ISTHMUS, "inspect", "-", "--json"],
        input=stream.read_bytes(),
        capture_output=True,
        timeout=60,
        cwd=ROOT,
    )
    assert json.loads(done.stdout) == json.loads(run_here("inspect", stream, "--json").stdout)


def test_bundle_inspect_is_inspect_of_a_bundle(tiny_bundle: Path, stream: Path) -> None:
    assert run_here("bundle", "inspect", tiny_bundle) == run_here("inspect", tiny_bundle)
    assert "no bundle at" in refused("bundle", "inspect", stream.parent / "nope", status=2)
