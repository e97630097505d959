"""Images of many requests -> batches -> the network.

One thread runs the network. While it is busy, images queue up, and the next batch takes all of them, up to `max_batch`.
When it is idle, a batch waits up to `max_delay` seconds, but only for requests that are still being read, so a lone
client never waits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

from dynconv.inference import explain
from dynconv.inference.predictor import Predictor


@dataclass(frozen=True)
class Answer:
    """The answer for one image: probabilities float32 [classes]; a of each block, [K], if requested."""

    probabilities: Tensor
    routing: list[Tensor] | None


@dataclass(frozen=True)
class _Waiting:
    predictor: Predictor
    image: Tensor
    routing: bool
    answer: asyncio.Future[Answer]


class Batcher:
    """The queue in front of the network, and the task that empties it. Each image names the network that classifies it.

    Args:
        max_batch: maximum number of images in a batch.
        max_delay: maximum seconds that an image waits for others.
        in_progress: returns the number of requests that were accepted but not yet answered.
        computed: called after each batch with its size and the seconds that it took.
    """

    def __init__(
        self,
        max_batch: int,
        max_delay: float,
        in_progress: Callable[[], int],
        computed: Callable[[int, float], None],
    ) -> None:
        self._max_batch = max_batch
        self._max_delay = max_delay
        self._in_progress = in_progress
        self._computed = computed
        self._queue: asyncio.Queue[_Waiting | None] = asyncio.Queue()
        self._inside = 0
        self._thread = ThreadPoolExecutor(1, "network")
        self._task: asyncio.Task[None] | None = None

    @property
    def running(self) -> bool:
        return self._task is not None and not self._task.done()

    def start(self) -> None:
        """Starts processing the queue."""
        self._task = asyncio.create_task(self._empty())

    async def close(self) -> None:
        """Processes what is in the queue, then stops."""
        self._queue.put_nowait(None)
        if self._task:
            await self._task
        self._thread.shutdown()

    async def predict(self, predictor: Predictor, images: list[Tensor], routing: bool) -> list[Answer]:
        """The answers for uint8 images [3, size, size], in order."""
        loop = asyncio.get_running_loop()
        waiting = [_Waiting(predictor, image, routing, loop.create_future()) for image in images]
        self._inside += 1
        try:
            for one in waiting:
                self._queue.put_nowait(one)
            return await asyncio.gather(*(one.answer for one in waiting))
        finally:
            self._inside -= 1

    async def _empty(self) -> None:
        loop = asyncio.get_running_loop()
        closing = False
        while not closing:
            batch, closing = await self._gather()
            batch = [one for one in batch if not one.answer.done()]  # drops cancelled requests
            if not batch:
                continue
            began = loop.time()
            try:
                answers = await loop.run_in_executor(self._thread, self._compute, batch)
            except Exception as error:  # the network's: reported to those who wait; the next batch still runs
                for one in batch:
                    if not one.answer.done():
                        one.answer.set_exception(error)
                continue
            self._computed(len(batch), loop.time() - began)
            for one, answer in zip(batch, answers, strict=True):
                if not one.answer.done():
                    one.answer.set_result(answer)

    async def _gather(self) -> tuple[list[_Waiting], bool]:
        """The next batch, and whether it is the last one."""
        batch: list[_Waiting] = []
        deadline: float | None = None  # waits for the first image indefinitely
        while len(batch) < self._max_batch:
            others = self._in_progress() > self._inside
            if batch and self._queue.empty() and not others:
                break
            try:
                async with asyncio.timeout_at(deadline):
                    one = await self._queue.get()
            except TimeoutError:
                break
            if one is None:
                return batch, True
            deadline = deadline or asyncio.get_running_loop().time() + self._max_delay
            batch.append(one)
        return batch, False

    def _compute(self, batch: list[_Waiting]) -> list[Answer]:
        """The answers, in order. While the network is being replaced, a batch may hold images for two of them."""
        answers = dict[int, Answer]()
        for predictor in {id(one.predictor): one.predictor for one in batch}.values():
            numbers = [number for number, one in enumerate(batch) if one.predictor is predictor]
            answers |= zip(numbers, _classify(predictor, [batch[number] for number in numbers]), strict=True)
        return [answers[number] for number in range(len(batch))]


def _classify(predictor: Predictor, batch: list[_Waiting]) -> list[Answer]:
    images_NCHW = torch.stack([one.image for one in batch])
    probabilities_NC = predictor.probabilities(images_NCHW)
    asked = [number for number, one in enumerate(batch) if one.routing]
    routing = dict[int, list[Tensor]]()
    if asked:
        blocks = explain.routing_weights(predictor, images_NCHW[asked])
        routing = {number: [a_NK[row] for a_NK in blocks] for row, number in enumerate(asked)}
    return [Answer(row, routing.get(number)) for number, row in enumerate(probabilities_NC)]
