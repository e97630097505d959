"""Damaged copies of files, drawn at random: the same ones for the same seed."""

import random
from collections.abc import Sequence

_NUMBERS = (b"\0", b"\1", b"\x7f", b"\x80", b"\xff", b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0\0\0\x80", bytes(8))


def mutated(seeds: Sequence[bytes], tokens: Sequence[bytes], rng: random.Random) -> bytes:
    """One of the seeds with one to eight changes: bits, numbers, pieces removed, repeated, moved, or from elsewhere.

    Args:
        tokens: words of the format, which are put in or take the place of bytes.
    """
    data = bytearray(rng.choice(seeds))
    for _ in range(rng.choice((1, 1, 2, 3, 8))):
        start = rng.randrange(len(data) + 1)
        end = min(len(data), start + rng.choice((1, 2, 4, 16, 256)))
        match rng.randrange(8):
            case 0 if start < len(data):
                data[start] ^= 1 << rng.randrange(8)
            case 1:
                number = rng.choice(_NUMBERS)
                data[start : start + len(number)] = number
            case 2:
                del data[start:end]
            case 3:
                data[start:start] = data[start:end] * rng.choice((1, 2, 50))
            case 4:
                data[start:start] = rng.choice(tokens)
            case 5:
                token = rng.choice(tokens)
                data[start : start + len(token)] = token
            case 6:
                other = rng.choice(seeds)
                data[start:] = other[rng.randrange(len(other) + 1) :]
            case 7:
                data[start:end] = rng.randbytes(end - start)
            case _:
                del data[start:]
    return bytes(data)
