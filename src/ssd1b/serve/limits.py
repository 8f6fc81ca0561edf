"""How much one server takes on: of bodies, pictures, steps and waiting jobs.

Everything is checked before a picture is decoded or a model is touched. Does not know HTTP or models.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ssd1b.base.errors import RequestError
from ssd1b.generate.request import Request


@dataclass(frozen=True, slots=True)
class Limits:
    """Upper bounds; a request over one of them is refused with its name and value.

    Attributes:
        body_bytes: of a request's body, uploads included.
        side_px: of a picture's width and height.
        pixels: of one picture.
        steps: UNet calls of one picture.
        upload_pixels: of a picture that is sent in, looked at before it is decoded.
        count: pictures of one job.
        work: pixels times steps, over all pictures of a job.
        waiting: jobs in the queue; more are turned away until one is done.
        waiting_of_client: of them, of one client.
        kept_pictures: the newest so many are kept, unless a person asked to keep more.
    """

    body_bytes: int = 24 << 20
    side_px: int = 2048
    pixels: int = 1536 * 1536
    upload_pixels: int = 4096 * 4096
    steps: int = 150
    count: int = 10
    work: int = 1024 * 1024 * 50 * 10
    waiting: int = 64
    waiting_of_client: int = 32
    kept_pictures: int = 2000

    def refuse_count(self, count: int) -> None:
        """Let a number of pictures through, or not.

        Raises:
            RequestError: too many, or none.
        """
        if not 1 <= count <= self.count:
            raise RequestError(f"This server makes 1 to {self.count} pictures; {count} were asked for.")

    def refuse(self, requests: Sequence[Request]) -> None:
        """Let a job through, or not.

        Raises:
            RequestError: what is too much, and how much is allowed.
        """
        if not 1 <= len(requests) <= self.count:
            raise RequestError(
                f"This server makes 1 to {self.count} pictures; {len(requests)} were asked for."
            )
        for request in requests:
            width, height = (side * request.upscale for side in request.hires_size)
            if max(width, height) > self.side_px:
                raise RequestError(f"A side may have {self.side_px} pixels; {width}x{height} was asked for.")
            if width * height > self.pixels:
                raise RequestError(f"{width}x{height} has more than the {self.pixels} pixels allowed here.")
            if request.steps > self.steps:
                raise RequestError(f"{self.steps} steps are allowed here; {request.steps} were asked for.")
        work = sum(math.prod(request.hires_size) * request.n_steps for request in requests)
        if work > self.work:
            raise RequestError(
                f"This is {work / self.work:.1f} times the work of one job here (pixels x steps x pictures)."
                " Ask for fewer pictures, steps or pixels."
            )
