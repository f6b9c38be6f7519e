"""Runs: stretches of equal foreground value along the fastest axis of a volume.

A lesion fills a few millionths of a volume. One streaming pass finds the runs. Components, sizes and boxes are
computed from the runs, so their cost depends on the size of the lesions. A run is `starts[r] <= v < stops[r]`,
where `v` is the index into flat memory. Runs are sorted by start and never cross the end of a row.
"""

import numpy as np

from clicksim.kernels.compiler import kernel


@kernel
def find_runs(flat, words, per_word, row):
    """Find the runs of equal non-zero value.

    Args:
        flat: `(n,)` labels in memory order.
        words: The same memory as uint64, as far as it fills whole words; zero words are skipped.
        per_word: Labels in a word.
        row: Length of the fastest axis.

    Returns:
        starts, stops: int64. values: int64, the label of each run.
    """
    runs = np.empty((3, 256), np.int64)
    count = 0
    v = 0
    while v < flat.size:
        if v % per_word == 0:
            w = v // per_word
            while w < words.size and words[w] == 0:
                w += 1
            v = w * per_word
            if v >= flat.size:
                break
        if flat[v] == 0:
            v += 1
            continue
        start = v
        value = flat[v]
        end = (v // row + 1) * row
        v += 1
        while v < end and flat[v] == value:
            v += 1
        runs = _append(runs, count, start, v, value)
        count += 1
    return runs[0, :count].copy(), runs[1, :count].copy(), runs[2, :count].copy()


@kernel
def find_error_runs(prediction, truth, prediction_words, truth_words, per_word, row):
    """Find the runs of voxels in which two masks differ; equal words are skipped.

    Args:
        prediction, truth: `(n,)` of one dtype and one memory order; non-zero is foreground.
        prediction_words, truth_words: The same memory as uint64, as far as it fills whole words.
        per_word: Voxels in a word.
        row: Length of the fastest axis.

    Returns:
        starts, stops: int64. values: int64, 1 for a false positive, 2 for a false negative.
    """
    runs = np.empty((3, 256), np.int64)
    count = 0
    v = 0
    while v < truth.size:
        if v % per_word == 0:
            w = v // per_word
            while w < truth_words.size and prediction_words[w] == truth_words[w]:
                w += 1
            v = w * per_word
            if v >= truth.size:
                break
        kind = _error(prediction[v], truth[v])
        if kind == 0:
            v += 1
            continue
        start = v
        end = (v // row + 1) * row
        v += 1
        while v < end and _error(prediction[v], truth[v]) == kind:
            v += 1
        runs = _append(runs, count, start, v, kind)
        count += 1
    return runs[0, :count].copy(), runs[1, :count].copy(), runs[2, :count].copy()


@kernel
def join_indices(indices, row):
    """Convert a sorted list of flat indices to runs: neighbours in one row are joined.

    Returns:
        starts, stops: int64.
    """
    starts = np.empty(indices.size, np.int64)
    stops = np.empty(indices.size, np.int64)
    count = 0
    for v in indices:
        if count > 0 and stops[count - 1] == v and v % row != 0:
            stops[count - 1] = v + 1
        else:
            starts[count] = v
            stops[count] = v + 1
            count += 1
    return starts[:count].copy(), stops[:count].copy()


@kernel
def connect_runs(starts, stops, values, middle, row, connectivity):
    """Join all touching runs of equal value.

    Two runs touch when a voxel of one is a neighbour of a voxel of the other under 6-, 18- or
    26-connectivity. Each run is compared with the runs of at most four earlier rows that touch its own.
    One pointer per row only moves forward, so the cost is linear in the number of runs.

    Args:
        starts, stops, values: The runs.
        middle: Length of the middle axis.
        row: Length of the fastest axis.
        connectivity: 6, 18 or 26; 8 connects within each slice across the slow axis only.

    Returns:
        int64, for each run the index of the first run of its component.
    """
    parent = np.arange(starts.size)
    # the neighbouring rows that come first in memory: steps along the slow and the middle axis, and the maximum
    # distance of a neighbour along the fastest axis
    slow_steps = np.array([0, -1, -1, -1])
    middle_steps = np.array([-1, 0, -1, 1])
    straight = 0 if connectivity == 6 else 1
    diagonal = 1 if connectivity == 26 else 0
    reach = np.array([straight, straight, diagonal, diagonal])
    rows_used = 1 if connectivity == 8 else 2 if connectivity == 6 else 4
    pointers = np.zeros(4, np.int64)
    for r in range(starts.size):
        line = starts[r] // row
        slow, mid = line // middle, line % middle
        first, last = starts[r] % row, starts[r] % row + stops[r] - starts[r]
        # within a row, two runs of equal value never touch
        for n in range(rows_used):
            other_slow, other_mid = slow + slow_steps[n], mid + middle_steps[n]
            if other_slow < 0 or other_mid < 0 or other_mid >= middle:
                continue
            origin = (other_slow * middle + other_mid) * row
            p = pointers[n]
            while p < r and stops[p] <= origin + max(first - reach[n], 0):
                p += 1
            pointers[n] = p
            while p < r and starts[p] < origin + min(last + reach[n], row):
                if values[p] == values[r]:
                    _unite(parent, p, r)
                p += 1
    for r in range(parent.size):
        parent[r] = parent[parent[r]]
    return parent


@kernel
def measure_runs(starts, stops, numbers, count, middle, row):
    """Compute the size, box and coordinate sums of each component.

    Args:
        starts, stops: The runs.
        numbers: Component of each run, from 0.
        count: Number of components.
        middle, row: Lengths of the middle and the fastest axis.

    Returns:
        sizes: int64 `(count,)`, voxels. low, high: int64 `(count, 3)`, first and last voxel of the box along
        (slow, middle, fast). sums: float64 `(count, 3)`, sums of the coordinates; exact below 2**53.
    """
    sizes = np.zeros(count, np.int64)
    low = np.full((count, 3), np.iinfo(np.int64).max)
    high = np.full((count, 3), -1)
    sums = np.zeros((count, 3))
    for r in range(starts.size):
        c = numbers[r]
        line = starts[r] // row
        slow, mid, first = line // middle, line % middle, starts[r] % row
        length = stops[r] - starts[r]
        last = first + length - 1
        sizes[c] += length
        low[c, 0], high[c, 0] = min(low[c, 0], slow), max(high[c, 0], slow)
        low[c, 1], high[c, 1] = min(low[c, 1], mid), max(high[c, 1], mid)
        low[c, 2], high[c, 2] = min(low[c, 2], first), max(high[c, 2], last)
        sums[c, 0] += slow * length
        sums[c, 1] += mid * length
        sums[c, 2] += (first + last) * length / 2
    return sizes, low, high, sums


@kernel
def expand_runs(starts, stops):
    """Return the flat index of each voxel of the runs, in order, as int64."""
    total = 0
    for r in range(starts.size):
        total += stops[r] - starts[r]
    out = np.empty(total, np.int64)
    n = 0
    for r in range(starts.size):
        for v in range(starts[r], stops[r]):
            out[n] = v
            n += 1
    return out


@kernel
def _error(prediction, truth):
    return 0 if (prediction != 0) == (truth != 0) else 1 if prediction != 0 else 2


@kernel
def _append(runs, count, start, stop, value):
    """Append a run to the table; double the table if it is full."""
    if count == runs.shape[1]:
        larger = np.empty((3, 2 * count), np.int64)
        larger[:, :count] = runs
        runs = larger
    runs[0, count] = start
    runs[1, count] = stop
    runs[2, count] = value
    return runs


@kernel
def _unite(parent, a, b):
    """Join two trees under the smaller root, with path halving."""
    while parent[a] != a:
        parent[a] = parent[parent[a]]
        a = parent[a]
    while parent[b] != b:
        parent[b] = parent[parent[b]]
        b = parent[b]
    if a < b:
        parent[b] = a
    else:
        parent[a] = b
