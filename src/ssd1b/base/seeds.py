"""A number from (seed, purpose): the same on every machine, with no generator state to carry around.

Every draw of this project is named ("noise", step 7, sample 3) instead of counted, so resuming needs
nothing but the step, and changing one thing never shifts the randomness of another. This module knows no
torch and no numpy.
"""

from __future__ import annotations

import hashlib
import json


def seed_of(seed: int, *purpose: str | int) -> int:
    """Return a seed of 63 bits (0 … 2**63 - 1) for one named purpose, by BLAKE2b.

    `seed_of(0, "noise", 1)` and `seed_of(0, "noise", "1")` differ: the text that is hashed is JSON.
    """
    text = json.dumps([seed, *purpose], ensure_ascii=True, separators=(",", ":"))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1
