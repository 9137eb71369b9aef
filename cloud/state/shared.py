"""All that a server has of the state that it shares: tokens for its gate, the plan of its rollout, and one thread."""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor

from cloud.settings import StateSettings
from cloud.shelf.rollout import Rollout
from cloud.state.rollouts import SharedPlans
from cloud.state.tokens import StateTokens, WatchedTokens
from cloud.state.watch import StateWatch
from shared.errors import RequestError

log = logging.getLogger("isthmus.cloud.state")


class SharedState:
    """settings: with an address. Looks once, so it may block for seconds. Raises RequestError for a bad address."""

    def __init__(self, settings: StateSettings) -> None:
        if settings.url is None:
            raise RequestError("the state has no address", setting="state.url")
        self._watch = StateWatch(settings.url.get_secret_value(), settings.stale_max_ms / 1e3)
        self._poll_s = settings.poll_ms / 1e3
        self.tokens, self.plans = WatchedTokens(self._watch), SharedPlans(self._watch)
        self._watch.look({})

    @property
    def token_store(self) -> StateTokens:
        return StateTokens(self._watch.url)

    @property
    def trouble(self) -> str:
        """Why the database does not answer; empty if it does."""
        return self._watch.trouble

    async def follow(self, rollout: Rollout) -> None:
        """Looks for ever, and passes on to the rollout what it sees. A database that does not answer ends nothing."""
        # A thread of its own: those that all share may be busy for long.
        thread = ThreadPoolExecutor(1, "state")
        try:
            while True:
                try:
                    figures = rollout.figures()
                    await asyncio.get_running_loop().run_in_executor(thread, self.plans.exchange, figures)
                    self.plans.follow(rollout)
                except Exception:
                    log.exception("a look at the state went wrong")
                await asyncio.sleep(self._poll_s)
        finally:
            thread.submit(self._watch.close)
            thread.shutdown(wait=False)
