"""Who may ask replicas when there are more jobs than these can take: no token shuts others out."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from cloud.engine.batch_work import Done, Job, Served
from cloud.engine.fair_queue import Share
from shared.bundle import Bundle
from shared.errors import OverloadedError

pytest.importorskip("ray", reason="comes with the extra ray")

DONE = Done(None, {}, 0.0, 0.0)


class Replicas:
    """Stands for a deployment's handle; each job waits until it is let go."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, asyncio.Future[Done]]] = []

    def options(self, **_: Any) -> Replicas:
        return self

    @property
    def answer(self) -> Replicas:
        return self

    def remote(self, _: Any, __: Any, share: Share) -> asyncio.Future[Done]:
        self.asked.append((share.name, asyncio.get_running_loop().create_future()))
        return self.asked[-1][1]


async def test_who_comes_to_a_full_gateway_has_a_part_of_it(bundle: Bundle) -> None:
    from cloud.engine.ray_engine import RayEngine

    replicas, served = Replicas(), Served(bundle, None)  # type: ignore[arg-type]  # replicas have models
    engine = RayEngine(replicas, 2, 4)  # type: ignore[arg-type]

    def job(name: str) -> Job:
        return Job(None, (), served, Share(name))  # type: ignore[arg-type]  # nobody looks at the source

    running = [asyncio.create_task(engine.submit(job("first"))) for _ in range(6)]
    await asyncio.sleep(0)
    assert engine.waiting == 4
    with pytest.raises(OverloadedError):
        await engine.submit(job("first"))
    running += [asyncio.create_task(engine.submit(job("second"))) for _ in range(3)]
    await asyncio.sleep(0)
    assert [name for name, _ in replicas.asked] == ["first"] * 6 + ["second"] * 3
    with pytest.raises(OverloadedError):
        await engine.submit(job("second"))
    replicas.asked[0][1].set_result(DONE)
    await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
    with pytest.raises(OverloadedError):  # it still has more than its part
        await engine.submit(job("first"))
    for _, answer in replicas.asked[1:]:
        answer.set_result(DONE)
    await asyncio.gather(*running)
    await engine.close()
