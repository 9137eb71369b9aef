"""A batch shared by threads: in order, each piece by itself, the same answers, and each job its own error."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace

import pytest
from threadpoolctl import ThreadpoolController

from cloud.engine.batch_work import Done, Job, Served, work
from cloud.engine.bundle_model import CloudModel
from cloud.engine.crew import PIECE_MAX, Crew, keep_numpy_to_one_thread
from shared.bundle import Bundle
from shared.codec.bitstream import Bitstream
from shared.encoder import Encoder
from shared.errors import CorruptPayloadError
from shared.kinds.classification import ClassificationResult
from shared.types import TaskQuery
from support.service import GatedModel, png


def test_pieces_are_few_in_order_and_side_by_side() -> None:
    pieces: list[list[int]] = []
    together = threading.Barrier(3, timeout=30)  # passed only by three pieces at once

    def double(piece: Sequence[int]) -> list[int]:
        together.wait()
        pieces.append(list(piece))
        return [2 * item for item in piece]

    assert Crew(3).run(double, range(9)) == list(range(0, 18, 2))
    assert sorted(pieces) == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]


def test_a_large_batch_has_small_pieces_and_one_item_stays_here() -> None:
    threads: list[int] = []

    def note(piece: Sequence[int]) -> Sequence[int]:
        threads.append(threading.get_ident())
        assert len(piece) <= PIECE_MAX
        return piece

    crew = Crew(2)
    assert crew.run(note, range(50)) == list(range(50))
    assert threading.get_ident() not in threads
    threads.clear()
    crew.run(note, [1])
    assert threads == [threading.get_ident()]


def test_an_error_of_a_piece_is_raised() -> None:
    def fail(piece: Sequence[int]) -> list[int]:
        raise ValueError(f"{len(piece)}")

    with pytest.raises(ValueError, match="2"):
        Crew(2).run(fail, range(4))


def test_shared_answers_are_those_of_one_thread(bundle: Bundle, packed_1: list[bytes]) -> None:
    model, alone = CloudModel(bundle, threads=3), CloudModel(bundle, threads=1)
    bad = replace(Bitstream.unpack(packed_1[3]), b_v=b"\xff" * 40)
    sources = [bad if i == 3 else Bitstream.unpack(data) for i, data in enumerate(packed_1)]

    def outcomes(one: CloudModel) -> list[Done | Exception]:
        jobs = [Job(source, (TaskQuery(name="classification"),), Served(bundle, one)) for source in sources]
        return work(jobs)

    shared, single = outcomes(model), outcomes(alone)
    assert [type(one) for one in shared] == [type(one) for one in single]
    assert isinstance(shared[3], CorruptPayloadError)
    done = [one for one in shared if isinstance(one, Done)]
    for one, other in zip(done, (one for one in single if isinstance(one, Done)), strict=True):
        a, b = one.results["classification"], other.results["classification"]
        assert isinstance(a, ClassificationResult)
        assert isinstance(b, ClassificationResult)
        assert [score.index for score in a.top] == [score.index for score in b.top]
        assert [score.score for score in a.top] == pytest.approx([score.score for score in b.top], abs=1e-5)
    # The times are the batch's, and the same for all of it.
    assert len({(one.decode_ms, one.tails_ms, one.postprocess_ms, one.ended_s) for one in done}) == 1
    assert 0 < done[0].postprocess_ms < done[0].tails_ms


class Picky(GatedModel):
    """Fails for whole batches in which one image is asked for 7 classes."""

    def answer(self, z, queries, qualities):  # type: ignore[no-untyped-def]
        if any(query.top_k == 7 for image in queries for query in image):
            raise RuntimeError("seven")
        return super().answer(z, queries, qualities)


def test_what_fails_a_whole_batch_fails_alone(bundle: Bundle, encoder: Encoder) -> None:
    served = Served(bundle, Picky(encoder.codec))
    latents = [encoder.encode(png(seed)).latent for seed in range(4)]
    jobs = [Job(latent, (TaskQuery(name="classification"),), served) for latent in latents]
    jobs[2] = replace(jobs[2], queries=(TaskQuery(name="classification", top_k=7),))
    outcomes = work(jobs)
    assert [type(one) for one in outcomes] == [Done, Done, RuntimeError, Done]


def test_numpy_multiplies_in_its_callers_thread() -> None:
    keep_numpy_to_one_thread()
    own = [
        lib
        for lib in ThreadpoolController().info()
        if lib["user_api"] == "blas" and "numpy" in lib["filepath"]
    ]
    assert [lib["num_threads"] for lib in own] == [1] * len(own)
