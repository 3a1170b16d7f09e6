"""The batcher alone, around an engine without a model."""

import asyncio

import keras
import pytest
from exported_models import TOKENIZER

from keras_transformer.serving.batching import Batcher, Overloaded

pytestmark = pytest.mark.skipif(keras.backend.backend() != "torch", reason="does not depend on the backend")
SOURCES = [TOKENIZER.encode(text, add_eos=True) for text in ("a dog", "two cats", "a cat runs", "dogs sleep")]


def run(scenario, engine, **options):
    async def main():
        batcher = Batcher(engine, **options)
        batcher.start()
        try:
            return await asyncio.wait_for(scenario(batcher), 20)
        finally:
            await batcher.stop()

    return asyncio.run(main())


def test_what_comes_together_is_searched_together():
    from served_engine import Backwards

    async def together(batcher):
        return await asyncio.gather(*(batcher.search([source], 2) for source in SOURCES))

    engine = Backwards()
    answers = run(together, engine, delay=0.2)
    assert engine.batches == [4]
    assert [answer[0][0][0] for answer in answers] == [[*source[-2::-1], TOKENIZER.eos_id] for source in SOURCES]
    assert all(len(answer[0]) == 2 for answer in answers)


def test_the_budget_counts_padding_and_beams():
    from served_engine import Backwards

    async def together(batcher):
        return await batcher.search([SOURCES[0]] * 5, 2)

    engine = Backwards()
    run(together, engine, delay=0.1, batch_tokens=2 * 8 * 2)  # two rows filled up to 8, of two hypotheses each
    assert engine.batches == [2, 2, 1]
    engine = Backwards()
    run(together, engine, delay=0.1, batch_tokens=1)  # a sentence alone goes whatever its size
    assert engine.batches == [1] * 5


def test_other_beams_wait_and_the_first_is_not_overtaken():
    from served_engine import Backwards

    class Watched(Backwards):
        def search(self, sources, beam_size, only_best=False):
            beams.append(beam_size)
            return super().search(sources, beam_size, only_best)

    async def mixed(batcher):
        return await asyncio.gather(*(batcher.search([SOURCES[0]], width) for width in (1, 2, 1, 2)))

    beams = []
    run(mixed, Watched(), delay=0.1)
    assert beams == [1, 2]


def test_the_best_alone_is_searched_where_nobody_asks_for_more():
    from served_engine import Backwards

    class Watched(Backwards):
        def search(self, sources, beam_size, only_best=False):
            asked.append((len(sources), only_best))
            return super().search(sources, beam_size, only_best)

    async def mixed(batcher):
        await batcher.search(SOURCES, 2, only_best=True)
        await asyncio.gather(batcher.search(SOURCES, 2, only_best=True), batcher.search(SOURCES[:1], 2))

    asked = []
    run(mixed, Watched(), delay=0.1)
    assert asked == [(4, True), (5, False)]


def test_more_than_may_wait_is_refused_and_a_request_that_ended_is_not_searched():
    from served_engine import Backwards

    async def crowd(batcher):
        first = asyncio.ensure_future(batcher.search([SOURCES[0]], 1))
        await asyncio.to_thread(engine.begun.wait, 10)
        ended = asyncio.ensure_future(batcher.search([SOURCES[1]], 1))
        await asyncio.sleep(0.01)
        with pytest.raises(Overloaded, match="1 sentences wait already"):
            await batcher.search(SOURCES * 3, 4)
        ended.cancel()
        await asyncio.sleep(0.01)
        assert batcher.waiting == 0  # nor does it count any more
        last = asyncio.ensure_future(batcher.search([SOURCES[2]], 1))
        engine.may_go_on.set()
        return await first, await last

    engine = Backwards()
    engine.may_go_on.clear()
    run(crowd, engine, delay=0.0, max_waiting_tokens=64)
    assert engine.batches == [1, 1]


def test_an_engine_that_fails_fails_its_batch_alone():
    from served_engine import Backwards

    class Failing(Backwards):
        def search(self, sources, beam_size, only_best=False):
            if beam_size == 1:
                raise ValueError("the logits are not finite")
            return super().search(sources, beam_size, only_best)

    async def both(batcher):
        with pytest.raises(ValueError, match="not finite"):
            await batcher.search(SOURCES, 1)
        return await batcher.search(SOURCES, 2)

    assert len(run(both, Failing())) == 4


def test_an_engine_that_answers_too_little_stops_nobody_else():
    from served_engine import Backwards

    class Short(Backwards):
        def search(self, sources, beam_size, only_best=False):
            return super().search(sources, beam_size, only_best)[: None if beam_size == 2 else -1]

    async def both(batcher):
        with pytest.raises(ValueError, match="gave 3 answers for 4 sources"):
            await batcher.search(SOURCES, 1)
        return await batcher.search(SOURCES, 2)

    assert len(run(both, Short())) == 4
