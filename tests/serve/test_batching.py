"""The batcher by itself: which images it puts together, and what becomes of failures."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import torch
from torch import Tensor

from dynconv.inference import explain
from dynconv.inference.predictor import Predictor
from dynconv.serve.batching import Batcher

IMAGES = torch.randint(0, 256, (9, 3, 32, 32), generator=torch.Generator().manual_seed(0)).to(torch.uint8)


class Held:
    """A predictor that waits until it is let go, and counts."""

    def __init__(self, predictor: Predictor) -> None:
        self.predictor, self.sizes = predictor, list[int]()
        self.began, self.go = threading.Event(), threading.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.predictor, name)

    def probabilities(self, images_NCHW: Tensor) -> Tensor:
        self.began.set()
        assert self.go.wait(10)
        self.sizes.append(len(images_NCHW))
        return self.predictor.probabilities(images_NCHW)


@pytest.fixture
def held(predictor: Predictor) -> Held:
    return Held(predictor)


def run(
    held: Held,
    use: Callable[[Batcher], Coroutine[Any, Any, None]],
    *,
    max_batch: int = 64,
    max_delay: float = 0.0,
    in_progress: Callable[[], int] = lambda: 0,
) -> None:
    async def main() -> None:
        batcher = Batcher(max_batch, max_delay, in_progress, lambda images, seconds: None)
        batcher.start()
        try:
            async with asyncio.timeout(20):
                await use(batcher)
        finally:
            held.go.set()
            await batcher.close()

    asyncio.run(main())


def test_what_gathers_while_the_network_is_busy_becomes_batches(held: Held) -> None:
    async def use(batcher: Batcher) -> None:
        first = asyncio.create_task(batcher.predict(held, [IMAGES[0]], routing=False))
        await asyncio.to_thread(held.began.wait, 10)
        others = [
            asyncio.create_task(batcher.predict(held, [image], routing=number % 2 > 0))
            for number, image in enumerate(IMAGES)
        ]
        await asyncio.sleep(0.05)
        held.go.set()
        await first
        answers = [answer for other in others for answer in await other]
        torch.testing.assert_close(
            torch.stack([answer.probabilities for answer in answers]), held.predictor.probabilities(IMAGES)
        )
        expected = explain.routing_weights(held.predictor, IMAGES)
        for number, answer in enumerate(answers):
            assert (answer.routing is not None) == (number % 2 > 0)
            for block, a_K in enumerate(answer.routing or ()):
                torch.testing.assert_close(a_K, expected[block][number])

    run(held, use, max_batch=4)

    assert held.sizes == [1, 4, 4, 1]


def test_a_lone_request_waits_for_nobody(held: Held) -> None:
    held.go.set()

    async def use(batcher: Batcher) -> None:
        async with asyncio.timeout(5):
            await batcher.predict(held, [IMAGES[0], IMAGES[1]], routing=False)

    run(held, use, max_delay=60, in_progress=lambda: 1)

    assert held.sizes == [2]


@pytest.mark.parametrize(("max_delay", "sizes"), [(10.0, [2]), (0.0, [1, 1])])
def test_a_request_waits_for_one_that_is_being_read(held: Held, max_delay: float, sizes: list[int]) -> None:
    held.go.set()

    async def use(batcher: Batcher) -> None:
        async def read_slowly() -> None:
            await asyncio.sleep(0.1)
            await batcher.predict(held, [IMAGES[1]], routing=False)

        await asyncio.gather(batcher.predict(held, [IMAGES[0]], routing=False), read_slowly())

    run(held, use, max_delay=max_delay, in_progress=lambda: 2)

    assert held.sizes == sizes


def test_a_failure_is_told_to_those_who_wait_and_the_next_batch_is_computed(held: Held) -> None:
    held.go.set()

    async def use(batcher: Batcher) -> None:
        with pytest.raises(RuntimeError):
            await batcher.predict(held, [torch.zeros(3, 0, 0, dtype=torch.uint8)], routing=False)
        assert batcher.running
        assert len(await batcher.predict(held, [IMAGES[0]], routing=False)) == 1

    run(held, use)


def test_what_was_given_up_is_not_computed(held: Held) -> None:
    async def use(batcher: Batcher) -> None:
        first, second, third = (
            asyncio.create_task(batcher.predict(held, [image], routing=False)) for image in IMAGES[:3]
        )
        await asyncio.sleep(0.05)
        second.cancel()
        await asyncio.sleep(0.05)
        held.go.set()
        await asyncio.gather(first, third)

    run(held, use, max_batch=1)

    assert held.sizes == [1, 1]


def test_closing_answers_what_is_in_the_queue(held: Held) -> None:
    async def main() -> None:
        batcher = Batcher(2, 0, lambda: 0, lambda images, seconds: None)
        batcher.start()
        waiting = [asyncio.create_task(batcher.predict(held, [image], routing=False)) for image in IMAGES]
        await asyncio.sleep(0)
        held.go.set()
        await batcher.close()
        assert all(len(answers) == 1 for answers in await asyncio.gather(*waiting))
        assert not batcher.running

    asyncio.run(main())
