"""Rolling a bundle out over HTTP, for `isthmus cloud rollout`: everything in the query, so that no body is read.

A token of the scope "admin" that is limited to cameras sees what is said of those; to change a rollout, which there is
one of for all cameras, needs one that may use all.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Query

from cloud.shelf.keeper import Keeper
from cloud.shelf.rollout import RolloutState
from shared.errors import NotReadyError, RequestError, UnknownBundleError
from shared.process.access import needs
from shared.process.auth import Caller, caller
from shared.process.http import problem_doc
from shared.process.http_parameters import no_query

Named = Annotated[
    str,
    Query(min_length=1, max_length=128, description="a bundle: folder, name, or 8 digits of its fingerprint"),
]
Text = Annotated[str, Query(min_length=1, max_length=4096)]
Share = Annotated[float, Query(ge=0, le=1)]
Count = Annotated[int, Query(ge=1, le=1_000_000)]


def add_rollout(app: FastAPI, keeper: Callable[[], Keeper]) -> None:
    """keeper: returns it, or raises NotReadyError while there is none."""
    problems: dict[int | str, dict[str, Any]] = {
        404: problem_doc(UnknownBundleError),
        422: problem_doc(RequestError),
        503: problem_doc(NotReadyError),
    }
    how: dict[str, Any] = {"tags": ["admin"], "responses": problems}
    path = "/admin/rollout"

    @app.get(path, summary="The rollout, with figures side by side", dependencies=[Depends(no_query)], **how)
    @needs("admin")
    async def state() -> RolloutState:
        return _seen_by(caller(), keeper().rollout.state())

    @app.post(path, summary="Roll a bundle out to some cameras, or to all", **how)
    @needs("admin")
    async def begin(
        bundle: Named,
        to: Text,
        base: Named | None = None,
        errors_max: Share = 0.05,
        requests_min: Count = 20,
    ) -> RolloutState:
        """`to`: 5%, all, or names of cameras with * and ?, comma-separated. `base`: what cameras go back to; without it
        the one of the rollout that reached all of them, or the only other one."""
        caller().check_camera("")
        return await keeper().roll_out(bundle, to, base, errors_max, requests_min)

    @app.post(f"{path}/back", summary="Take the rollout back", dependencies=[Depends(no_query)], **how)
    @needs("admin")
    async def back() -> RolloutState:
        caller().check_camera("")
        return await keeper().roll_back()


def _seen_by(one: Caller, state: RolloutState) -> RolloutState:
    """What is said of the cameras that a caller may use."""
    troubles = {name: why for name, why in state.troubles.items() if one.may_use(name)}
    plan = state.plan
    if plan is not None:
        plan = plan.model_copy(update={"cameras": tuple(name for name in plan.cameras if one.may_use(name))})
    return state.model_copy(update={"plan": plan, "troubles": troubles})
