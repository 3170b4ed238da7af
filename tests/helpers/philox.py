"""Philox4x32-10 on Python's integers, with all four counter words: an oracle that shares no code with the package."""

from __future__ import annotations

import math

import numpy as np

_MASK = 2**32 - 1

# Random123's published vectors: counter, key, words.
KNOWN_WORDS = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((_MASK,) * 4, (_MASK,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


def words(counter: tuple[int, int, int, int], key: tuple[int, int]) -> tuple[int, int, int, int]:
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        first, second = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = (second >> 32) ^ c1 ^ k0, second & _MASK, (first >> 32) ^ c3 ^ k1, first & _MASK
        k0, k1 = (k0 + 0x9E3779B9) & _MASK, (k1 + 0xBB67AE85) & _MASK
    return c0, c1, c2, c3


def block(seed: int, counter: int) -> tuple[int, int, int, int]:
    """The words of a 64-bit counter, which wraps, under a 64-bit seed."""
    counter %= 2**64
    return words((counter & _MASK, counter >> 32, 0, 0), (seed & _MASK, seed >> 32))


def _pair(u1: float, u2: float, angle: float) -> tuple[float, float]:
    radius = math.sqrt(-2.0 * math.log(u1))
    return radius * math.cos(angle), radius * math.sin(angle)


def _pair32(high: int, low: int) -> tuple[float, float]:
    scale, half = np.float32(2.0**-32), np.float32(2.0**-33)
    u1, u2 = (np.float32(word) * scale + half for word in (high, low))
    return _pair(float(u1), float(u2), float(np.float32(2 * math.pi) * u2))


def _pair64(first: tuple[int, int], second: tuple[int, int]) -> tuple[float, float]:
    u1, u2 = (float((high << 32) | low) * 2.0**-64 + 2.0**-65 for high, low in (first, second))
    return _pair(u1, u2, 2 * math.pi * u2)


def normal(seed: int, offset: int, index: int, wide: bool) -> float:
    """Element ``index`` of a float32 draw, or of a float64 one where ``wide``."""
    if wide:
        w = block(seed, offset + index // 2)
        return _pair64(w[:2], w[2:])[index % 2]
    w = block(seed, offset + index // 4)
    return (*_pair32(*w[:2]), *_pair32(*w[2:]))[index % 4]
