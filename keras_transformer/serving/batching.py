"""Dynamic batching: sentences of concurrent requests are searched together, under a token budget and a latency cap.

A sentence that finds the model idle waits ``delay`` for company, no longer; while the model works, what arrives gathers by itself.
Since a search treats each row of a batch alone, the other sentences of a batch change no translation.
"""

import asyncio
import collections
import concurrent.futures
import contextlib
import dataclasses
from collections.abc import Callable

from keras_transformer.backend_decoding import next_size
from keras_transformer.serving.engine import Engine
from keras_transformer.translator import SHORTEST


class Overloaded(Exception):
    """More is waiting than the server will take on."""


@dataclasses.dataclass(eq=False)
class _Item:
    source: list
    beam_size: int
    only_best: bool
    answer: asyncio.Future

    @property
    def tokens(self):
        """Positions its hypotheses take up."""
        return next_size(len(self.source), SHORTEST) * self.beam_size


class Batcher:
    """Runs an engine in one thread, a batch at a time.

    Args:
        engine: an Engine.
        batch_tokens: most positions of a batch: rows, filled up to the longest, times the beam.
        delay: seconds that a lone sentence waits for others.
        max_waiting_tokens: positions that may wait; beyond them ``search`` raises Overloaded.
        on_batch: called with the number of sentences of each batch.
    """

    def __init__(
        self,
        engine: Engine,
        batch_tokens: int = 4096,
        delay: float = 0.005,
        max_waiting_tokens: int = 65536,
        on_batch: Callable[[int], None] = lambda size: None,
    ):
        self.engine = engine
        self.batch_tokens = batch_tokens
        self.delay = delay
        self.max_waiting_tokens = max_waiting_tokens
        self._on_batch = on_batch
        self._waiting = collections.deque()
        self._arrived = asyncio.Event()
        # One thread: two searches at a time would share the same cores, and some backends trace only from one.
        self._thread = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="translate")
        self._task = None
        self._searching = False

    @property
    def waiting(self) -> int:
        """Sentences that wait."""
        return len(self._waiting)

    def start(self) -> None:
        """Begins to work, in the running event loop."""
        self._task = asyncio.get_running_loop().create_task(self._work())

    async def stop(self) -> None:
        """Finishes what waits, then ends."""
        while self._waiting or self._searching:
            await asyncio.sleep(0.01)
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._thread.shutdown(wait=True)

    async def search(self, sources: list, beam_size: int, only_best: bool = False) -> list:
        """Engine.search of these sources, together with those of others; with ``only_best`` the others may ask for more.

        Raises:
            Overloaded: too much waits already.
        """
        loop = asyncio.get_running_loop()
        items = [_Item(source, beam_size, only_best, loop.create_future()) for source in sources]
        waiting = sum(item.tokens for item in self._waiting)
        if self._waiting and waiting + sum(item.tokens for item in items) > self.max_waiting_tokens:
            raise Overloaded(f"{len(self._waiting)} sentences wait already. Try again in a moment.")
        self._waiting.extend(items)
        self._arrived.set()
        try:
            return await asyncio.gather(*(item.answer for item in items))
        except BaseException:  # the request ended: nobody reads the rest
            for item in items:
                item.answer.cancel()
                with contextlib.suppress(ValueError):  # it may be searched already
                    self._waiting.remove(item)
            raise

    async def run(self, function: Callable, *arguments):
        """``function(*arguments)`` in the engine's thread, between two batches."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)

    async def _work(self):
        while True:
            await self._arrived.wait()
            await asyncio.sleep(self.delay)
            while batch := self._next_batch():
                await self._search(batch)
            self._arrived.clear()

    def _next_batch(self):
        """The first that waits, and those behind it that want the same beam and fit into the budget."""
        batch, longest, passed = [], 0, []
        while self._waiting:
            item = self._waiting.popleft()
            if item.answer.done():  # its request ends at this moment
                continue
            length = max(longest, item.tokens)
            if batch and (item.beam_size != batch[0].beam_size or length * (len(batch) + 1) > self.batch_tokens):
                passed.append(item)
                if len(passed) > 256:  # far enough: order matters more than a full batch
                    break
                continue
            batch.append(item)
            longest = length
        self._waiting.extendleft(reversed(passed))
        return batch

    async def _search(self, batch):
        self._on_batch(len(batch))
        self._searching = True
        try:
            sources, only_best = [item.source for item in batch], all(item.only_best for item in batch)
            found = await self.run(self.engine.search, sources, batch[0].beam_size, only_best)
            if len(found) != len(batch):
                raise ValueError(f"The engine gave {len(found)} answers for {len(batch)} sources.")
        except Exception as error:  # every request of the batch learns of it; the server goes on
            for item in batch:
                if not item.answer.done():
                    item.answer.set_exception(error)
            return
        finally:
            self._searching = False
        for item, hypotheses in zip(batch, found, strict=True):
            if not item.answer.done():
                item.answer.set_result(hypotheses)
