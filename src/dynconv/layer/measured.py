"""Measures, when a geometry is first used, which algorithm is fastest on this machine, and remembers it.

`auto` must be right on processors that nobody fitted a model to. So the algorithms that the model in choice.py does not
rule out are timed against each other, on random numbers of the same shapes, before the first call. That takes some
milliseconds for each geometry; the times are kept in `dynconv/algorithms` in the user's cache, a file for each
processor, version of torch and version of the algorithms, and read from then on: with the same file, the choice is the
same. Geometries that differ little share a measurement: batches are rounded to powers of two, and so are maps of more
than 64 pixels. There are none on other devices than CPUs, and none where torch is asked for deterministic algorithms
or DYNCONV_NO_MEASURING is set.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import logging
import math
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from dynconv.layer.algorithms import ALGORITHMS
from dynconv.layer.geometry import Geometry
from dynconv.layer.ops import processor
from dynconv.layer.ops.build import cache_folder, locked, warn_once
from dynconv.layer.ops.operator import in_transform

logger = logging.getLogger("dynconv.layer")

VARIABLE = "DYNCONV_NO_MEASURING"
"""Set to anything, it keeps `auto` from measuring."""

Times = dict[str, float | None]
"""Milliseconds for one image, by the name of the algorithm; None for one that is not to be considered."""

_EXACT_PIXELS = 64
"""Maps of up to so many pixels have a measurement of their own."""

_FEW_IMAGES = 16
"""So many tell which algorithms are out of the question."""

_MULTIPLY_ADDS = 3e8
"""The others are timed with as many images as take so many, by the mixture's own count..."""

_MAP_FOR_WHOLE_BATCH = 16
"""...and for outputs of up to so many pixels with the whole batch, on which their order depends there."""

_KERNEL_PER_IMAGE, _MOST_NUMBERS = ("kernel", "unfold"), 2**26
"""These are not timed where the kernels that they mix for the images have more numbers than this."""

_OUT_FIRST, _OUT = 2.5, 1.2
"""How many times as long as the fastest an algorithm may take with a few images to be timed with all of them; and then
to be timed more than twice."""

_SETTLED = 1.1
"""It is timed until its two least times differ by at most this factor..."""

_MOST_ROUNDS = 8
"""...or so many times: then the machine is too busy to tell, and the prediction stands, for this process."""

_WORTHWHILE = 0.95
"""The predicted algorithm is left only for one that takes at most this part of its time."""


def applies(geometry: Geometry) -> bool:
    """Whether `auto` measures this geometry. Never while torch traces or transforms a function."""
    return (
        geometry.device == "cpu"
        and not os.environ.get(VARIABLE)
        and not torch.are_deterministic_algorithms_enabled()
        and not in_transform()
        and torch._C._get_tracing_state() is None
        and all(type(number) is int for number in (geometry.batch, *geometry.size))  # not symbols
        and geometry.batch > 0
    )


def fastest(geometry: Geometry, predicted: str, candidates: Sequence[str]) -> str:
    """The fastest of the candidates, measured now unless that has been done; `predicted` where they are about equal.

    Args:
        predicted: one of the candidates, which can compute the geometry.
    """
    times = times_of(geometry, candidates)
    possible = {name: time for name in candidates if (time := times.get(name)) is not None}
    best = min(possible, key=lambda name: possible[name], default=predicted)
    if predicted in possible and possible[best] > _WORTHWHILE * possible[predicted]:
        return predicted
    return best


def times_of(geometry: Geometry, candidates: Sequence[str]) -> Times:
    """The measured times, of candidates at least; measured now unless that has been done. Fewer if that failed."""
    memory, key = _memory(), _key(geometry)
    with memory.lock:
        if memory.missing(key, candidates):
            with memory.shared():  # so processes that start together measure one after another, and once
                if missing := memory.missing(key, candidates):
                    memory.add(key, _in_fresh_thread(lambda: _measure(_representative(geometry), missing)))
        return memory.times.get(key, {})


class _Memory:
    """The measurements with this processor and these algorithms, in a file that all processes share.

    Attributes:
        lock: to be held while reading or changing `times`.
        times: by the key of the geometry.
    """

    def __init__(self, path: Path | None) -> None:
        self.lock = threading.Lock()
        self._path = path
        self.times = self._read()

    def missing(self, key: str, candidates: Sequence[str]) -> list[str]:
        """Those that have not been measured."""
        return [name for name in candidates if name not in self.times.get(key, {})]

    @contextlib.contextmanager
    def shared(self) -> Iterator[None]:
        """Keeps other processes from measuring, and knows what they have measured before."""
        with contextlib.ExitStack() as held:
            if self._path is not None:
                try:
                    self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                    held.enter_context(locked(self._path.with_suffix(".lock")))
                except OSError as error:
                    self._keep_to_this_process(error)
            self.times |= self._read()
            yield

    def add(self, key: str, times: Times) -> None:
        """Remembers a measurement, within `shared`."""
        if not times:
            return
        self.times[key] = self.times.get(key, {}) | times
        if self._path is None:
            return
        about = {"processor": processor.name(), "torch": torch.__version__, "milliseconds_per_image": self.times}
        try:
            handle, name = tempfile.mkstemp(".partial", f"{self._path.stem}.", self._path.parent)
            unfinished = Path(name)
            try:
                with os.fdopen(handle, "w", encoding="utf-8") as file:
                    json.dump(about, file, indent=1)
                unfinished.replace(self._path)
            finally:
                unfinished.unlink(missing_ok=True)
        except OSError as error:
            self._keep_to_this_process(error)

    def _keep_to_this_process(self, error: OSError) -> None:
        warn_once(
            "measurements",
            f"cannot write the cache {error.filename or self._path}: {error.strerror}; every process measures the "
            "algorithms again (name a writable folder in XDG_CACHE_HOME)",
        )
        self._path = None

    def _read(self) -> dict[str, Times]:
        """What the file holds; nothing where it does not exist or is damaged, since it can be measured again."""
        if self._path is None:
            return {}
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
            found = json.loads(self._path.read_text(encoding="utf-8"))["milliseconds_per_image"]
            return {
                str(key): {name: time and float(time) for name, time in times.items() if name in ALGORITHMS}
                for key, times in found.items()
            }
        return {}


@functools.cache
def _memory() -> _Memory:
    try:
        return _Memory(cache_folder().parent / "algorithms" / f"{_digest()}.json")
    except (RuntimeError, ValueError, OSError):  # no home directory, a wrong DYNCONV_CPU, a package without sources
        return _Memory(None)


def _digest() -> str:
    """Of all that the times depend on, beside the geometry and the number of threads.

    Raises:
        ValueError: see `processor.limit`.
    """
    folder = Path(__file__).parent
    sources = [Path(__file__), folder / "algorithms.py", folder / "geometry.py", *sorted((folder / "ops").iterdir())]
    content = b"".join(source.read_bytes() for source in sources if source.suffix in (".py", ".cpp", ".h"))
    limits = (processor.limit(), *(os.environ.get(name, "") for name in ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA")))
    about = (processor.name(), *sorted(processor.instruction_sets()), *limits, torch.__version__)
    return hashlib.sha256("\n".join(about).encode() + content).hexdigest()[:16]


def _key(geometry: Geometry) -> str:
    """What geometries that share a measurement have in common."""
    g = geometry
    exact = math.prod(g.size) <= _EXACT_PIXELS
    pixels = "x".join(map(str, g.size)) if exact else f"about {_power_of_two(math.prod(g.size))} pixels"
    sides = " ".join(
        f"{name} {'x'.join(map(str, values))}"
        for name, values in (("stride", g.stride), ("padding", g.padding), ("dilation", g.dilation))
    )
    return (
        f"{str(g.dtype).removeprefix('torch.')} {'training' if g.training else 'inference'}, "
        f"{_power_of_two(g.batch)} images, {g.in_channels} -> {g.out_channels} channels, {pixels}, {g.experts} experts "
        f"{'x'.join(map(str, g.kernel))}, {sides}, groups {g.groups}, {torch.get_num_threads()} threads"
    )


def _power_of_two(number: int) -> int:
    return 2 ** round(math.log2(number))


def _representative(geometry: Geometry) -> Geometry:
    """The geometry with so many images that measuring it takes milliseconds."""
    g = geometry
    mixture = math.prod(g.kernel) * g.in_channels // g.groups * g.out_channels * (g.out_pixels + g.experts)
    images = g.batch if g.out_pixels <= _MAP_FOR_WHOLE_BATCH else max(_FEW_IMAGES, int(_MULTIPLY_ADDS / mixture))
    return replace(g, batch=min(g.batch, images))


def _in_fresh_thread(measure: Callable[[], Times]) -> Times:
    """Away from the caller's autocast, gradient mode, counters and hooks, all of which a thread has of its own."""
    times: list[Times] = []
    threads = torch.get_num_threads()

    def run() -> None:
        torch.set_num_threads(threads)  # OpenMP's number is a thread's own, too
        try:
            times.append(measure())
        except Exception as error:  # the prediction stands; what is really wrong, the call itself will say
            logger.debug("not measured: %r", error)

    thread = threading.Thread(target=run, name="dynconv-measure")
    with contextlib.suppress(RuntimeError):  # no more threads can be had
        thread.start()
        thread.join()
    return times[0] if times else {}


def _measure(geometry: Geometry, candidates: Sequence[str]) -> Times:
    """Milliseconds for one image, the least of some rounds; nothing if the machine is too busy to tell.

    The candidates take turns, so that other load on the machine affects them alike.
    """
    g = geometry
    numbers = g.batch * g.out_channels * (g.in_channels // g.groups) * math.prod(g.kernel)
    left = [name for name in candidates if numbers <= _MOST_NUMBERS or name not in _KERNEL_PER_IMAGE]
    few, first = replace(g, batch=min(g.batch, _FEW_IMAGES)), dict[str, float]()
    if few != g:
        first = {name: min(taken) for name, taken in _rounds(few, left, 2).items()}
        most = _OUT_FIRST * min(first.values(), default=0.0)
        # Products with few rows say nothing about `pixel` with many.
        left = [name for name, taken in first.items() if name == "pixel" or taken <= most]
    taken = _rounds(g, left, _MOST_ROUNDS)
    found = {name: min(of) for name, of in taken.items()}
    # Those that are out already: as many times slower than the fastest as with few images.
    slower = min(found.values(), default=1.0) / min(first.values(), default=1.0)
    times: Times = dict.fromkeys(candidates) | {name: time * slower for name, time in first.items()} | found
    logger.debug("measured: %s: %s", _key(g), times)
    return {} if _unsettled(taken) else times


def _rounds(geometry: Geometry, candidates: Sequence[str], most: int) -> dict[str, list[float]]:
    """Each candidate's milliseconds for one image, in up to `most` rounds; fewer where no more can change the order."""
    g = geometry
    random = torch.Generator().manual_seed(0)  # the global generator is the user's
    x = torch.randn(g.batch, g.in_channels, *g.size, generator=random).to(g.dtype)
    if g.dims == 2:
        x = x.contiguous(memory_format=torch.channels_last)
    weight = torch.randn(g.experts, g.out_channels, g.in_channels // g.groups, *g.kernel, generator=random).to(g.dtype)
    routing = torch.rand(g.batch, g.experts, generator=random)
    direction = torch.ones(g.batch, g.out_channels, *g.out_size, dtype=g.dtype)
    inputs = [array.requires_grad_(g.training) for array in (x, weight, routing)]

    def run(name: str) -> None:
        with torch.set_grad_enabled(g.training):
            mixture = ALGORITHMS[name].compute(x, weight, routing, g)
            if g.training:
                torch.autograd.grad(mixture, inputs, direction)

    taken: dict[str, list[float]] = {}
    for name in candidates:
        with contextlib.suppress(RuntimeError, ValueError, MemoryError):  # it cannot compute this after all
            run(name)  # oneDNN and the operators prepare themselves
            taken[name] = [round(1e3 * seconds_of(partial(run, name)) / g.batch, 6)]
    for _ in range(most - 1):
        for name in _unsettled(taken):
            taken[name].append(round(1e3 * seconds_of(partial(run, name)) / g.batch, 6))
    return taken


def _unsettled(taken: Mapping[str, Sequence[float]]) -> list[str]:
    """Of the algorithms that may be the fastest, those whose times do not agree yet; and all that have only one."""
    most = _OUT * min((min(times) for times in taken.values()), default=0.0)
    return [name for name, times in taken.items() if len(times) < 2 or (min(times) <= most and not _agree(times))]


def _agree(times: Sequence[float]) -> bool:
    least, next_to_it, *_ = sorted(times)
    return next_to_it <= _SETTLED * least


def seconds_of(run: Callable[[], object], least: float = 1e-3, wait: Callable[[], None] = lambda: None) -> float:
    """Seconds of one call; of several in a row where one is too short to time.

    Args:
        least: seconds that are long enough.
        wait: returns once the device has done what it was asked to.
    """
    count = 1
    while True:
        wait()
        began = time.perf_counter()
        for _ in range(count):
            run()
        wait()
        taken = time.perf_counter() - began
        if taken >= least:
            return taken / count
        count = max(2 * count, math.ceil(1.2 * least / taken * count) if taken else 0)
