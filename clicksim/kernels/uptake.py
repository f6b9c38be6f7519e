"""Voxels of an uptake above a floor, in one pass, and exact order statistics by selection on bit patterns."""

import numpy as np

from clicksim.kernels.compiler import kernel

BLOCK = 128  # voxels compared together: comparing a block takes a few vector instructions


@kernel
def collect_above(flat, floor, lowest):
    """Collect the flat indices of all voxels above `floor`, in order.

    NaN and infinities are always collected, so that the caller sees them.

    Args:
        flat: `(n,)` float32 or float64 in memory order.
        floor: A number of the dtype of `flat`.
        lowest: The lowest finite number of that dtype.

    Returns:
        int64.
    """
    capacity = 1024
    out = np.empty(capacity, np.int64)
    count = 0
    blocks = flat.size // BLOCK
    for n in range(blocks + 1):
        start = n * BLOCK
        stop = start + BLOCK if n < blocks else flat.size
        found = 0
        if n < blocks:
            for v in range(start, start + BLOCK):
                found |= (not flat[v] <= floor) | (flat[v] < lowest)
        else:
            found = 1
        if found == 0:
            continue
        if count + BLOCK > capacity:
            capacity *= 2
            larger = np.empty(capacity, np.int64)
            larger[:count] = out[:count]
            out = larger
        for v in range(start, stop):
            if (not flat[v] <= floor) | (flat[v] < lowest):
                out[count] = v
                count += 1
    return out[:count].copy()


@kernel
def order_statistic(bits, sign, digits, excluded, rank):
    """Find the value of a given rank among all voxels but the excluded ones, by radix selection.

    If the sign bit of a float is flipped, and for a negative number all bits, the bit patterns sort like the floats.
    One pass per 16-bit digit, most significant first, counts the patterns that match the digits found so far.
    Nothing is sorted or copied.

    Args:
        bits: `(n,)` bit patterns, uint32 or uint64.
        sign: The sign bit, as uint64.
        digits: 2 for float32, 4 for float64.
        excluded: int64 flat indices to leave out.
        rank: From 0, the smallest.

    Returns:
        uint64, the bit pattern of the value.
    """
    low = np.uint64(0xFFFF)
    known = np.uint64(0)
    for d in range(digits):
        shift = np.uint64(16 * (digits - 1 - d))
        above = np.uint64(16 * (digits - d))
        counts = np.zeros(65536, np.int64)
        for v in range(bits.size):
            key = _ordered(np.uint64(bits[v]), sign)
            if d == 0 or key >> above == known:
                counts[(key >> shift) & low] += 1
        for v in excluded:
            key = _ordered(np.uint64(bits[v]), sign)
            if d == 0 or key >> above == known:
                counts[(key >> shift) & low] -= 1
        digit = 0
        while rank >= counts[digit]:
            rank -= counts[digit]
            digit += 1
        known = (known << np.uint64(16)) | np.uint64(digit)
    return known ^ sign if known & sign else ~known & (sign | (sign - np.uint64(1)))


@kernel
def _ordered(pattern, sign):
    return (~pattern & (sign | (sign - np.uint64(1)))) if pattern & sign else pattern ^ sign
