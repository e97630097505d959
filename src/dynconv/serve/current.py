"""The network that answers, which can be replaced while the server runs."""

from __future__ import annotations

import time

from dynconv.page import samples
from dynconv.serve.model import Served


class Current:
    """The network that answers new requests. A request that has begun is answered by the network it began with.

    Attributes:
        served: the network.
        since: when it was put there, in seconds since 1970.
        drawings: sample images of its classes, PNG files by class.
    """

    def __init__(self, served: Served) -> None:
        self.replace(served)

    def replace(self, served: Served) -> None:
        """Lets `served` answer from now on."""
        self.drawings = samples.draw(served.predictor.classes)
        self.since = time.time()
        self.served = served
