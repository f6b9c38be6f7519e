"""Lines in a 2-D mask: the skeleton, the longest path through it, straight lines, and the walk along the rim.

A mask is `(rows, columns)`, uint8, C-ordered. Pixels are listed row by row. The eight neighbours of a pixel are
visited row by row as well: north-west first, south-east last.
"""

import numpy as np

from clicksim.kernels.compiler import kernel

ROW_STEPS = np.array([-1, -1, -1, 0, 0, 1, 1, 1])
COLUMN_STEPS = np.array([-1, 0, 1, -1, 1, -1, 0, 1])


@kernel
def thin(mask, table):
    """Skeleton by two-subiteration thinning (Zhang and Suen, 1984, as changed by a table).

    Each subiteration tests all pixels on an unchanged image, then deletes at once. Thinning ends when a double pass
    deletes nothing. Pixels beyond the border are background.

    Args:
        mask: `(rows, columns)`, 0 or 1.
        table: uint8 `(256,)`, the subiterations that delete a pixel (bit 1: first, bit 2: second), by the code of
            its neighbours: NW 1, N 2, NE 4, E 8, SE 16, S 32, SW 64, W 128.

    Returns:
        uint8, the same shape.
    """
    rows, columns = mask.shape
    image = np.zeros((rows + 2, columns + 2), np.uint8)
    image[1:-1, 1:-1] = mask
    active_r, active_c = np.nonzero(image)
    alive = np.ones(active_r.size, np.bool_)
    deleted = True
    while deleted:
        deleted = False
        for bit in (1, 2):
            going = np.zeros(active_r.size, np.bool_)
            for n in range(active_r.size):
                if alive[n]:
                    r, c = active_r[n], active_c[n]
                    code = (
                        image[r - 1, c - 1]
                        + 2 * image[r - 1, c]
                        + 4 * image[r - 1, c + 1]
                        + 8 * image[r, c + 1]
                        + 16 * image[r + 1, c + 1]
                        + 32 * image[r + 1, c]
                        + 64 * image[r + 1, c - 1]
                        + 128 * image[r, c - 1]
                    )
                    going[n] = (table[code] & bit) != 0
            for n in range(active_r.size):
                if going[n]:
                    image[active_r[n], active_c[n]] = 0
                    alive[n] = False
                    deleted = True
    return image[1:-1, 1:-1].copy()


@kernel
def largest_part(mask):
    """Find the largest 8-connected part; among equal ones, the one whose first pixel comes first row by row.

    Returns:
        uint8, the same shape.
    """
    rows, columns = mask.shape
    part = np.zeros((rows, columns), np.int64)
    queue = np.empty((rows * columns, 2), np.int64)
    best, best_size, count = 0, 0, 0
    for r in range(rows):
        for c in range(columns):
            if mask[r, c] == 0 or part[r, c] != 0:
                continue
            count += 1
            size = _flood(mask, part, r, c, count, queue)
            if size > best_size:
                best, best_size = count, size
    out = np.zeros((rows, columns), np.uint8)
    if best > 0:
        for r in range(rows):
            for c in range(columns):
                out[r, c] = part[r, c] == best
    return out


@kernel
def farthest_pair(pixels, weights):
    """Find the indices of the two pixels farthest apart; among equal pairs, the smallest first, then second index.

    Args:
        pixels: int64 `(n, 2)`.
        weights: float64 `(2,)`, squared pixel size along rows and columns.
    """
    best, first, second = -1.0, 0, 0
    for a in range(pixels.shape[0]):
        for b in range(a, pixels.shape[0]):
            dr, dc = pixels[a, 0] - pixels[b, 0], pixels[a, 1] - pixels[b, 1]
            squared = dr * dr * weights[0] + dc * dc * weights[1]
            if squared > best:
                best, first, second = squared, a, b
    return first, second


@kernel
def shortest_path(mask, start, stop):
    """Find a shortest path between two pixels through 8-neighbours of a mask, by search from both ends.

    The side with the smaller frontier is expanded (the first one if they are equal), node by node in order, with
    neighbours row by row. The search stops at the first neighbour that the other side has reached.

    Args:
        mask: `(rows, columns)`, 0 or 1.
        start, stop: int64 `(2,)`, different pixels of the mask.

    Returns:
        int64 `(n, 2)`, both ends included; `(0, 2)` if there is no path.
    """
    rows, columns = mask.shape
    parents = np.full((2, rows * columns), -1)
    fronts = np.empty((2, rows * columns), np.int64)
    sizes = np.ones(2, np.int64)
    roots = np.array([start[0] * columns + start[1], stop[0] * columns + stop[1]])
    for side in range(2):
        parents[side, roots[side]] = roots[side]
        fronts[side, 0] = roots[side]
    meeting = -1
    while meeting < 0 and sizes[0] > 0 and sizes[1] > 0:
        side = 0 if sizes[0] <= sizes[1] else 1
        meeting, sizes[side] = _expand(mask, parents[side], parents[1 - side], fronts[side], sizes[side])
    if meeting < 0:
        return np.empty((0, 2), np.int64)
    before = _steps_to_root(parents[0], meeting)
    after = _steps_to_root(parents[1], meeting)
    out = np.empty((before + after + 1, 2), np.int64)
    node = meeting
    for n in range(before, -1, -1):
        out[n, 0], out[n, 1] = node // columns, node % columns
        node = parents[0, node]
    node = meeting
    for n in range(before, before + after + 1):
        out[n, 0], out[n, 1] = node // columns, node % columns
        node = parents[1, node]
    return out


@kernel
def straight_line(r0, c0, r1, c1):
    """Pixels of the line between two pixels (Bresenham, 1965), both ends included.

    Returns:
        int64 `(n, 2)`.
    """
    dr, dc = abs(r1 - r0), abs(c1 - c0)
    step_r = 1 if r1 - r0 > 0 else -1
    step_c = 1 if c1 - c0 > 0 else -1
    steep = dr > dc
    major, minor = (dr, dc) if steep else (dc, dr)
    out = np.empty((major + 1, 2), np.int64)
    r, c, error = r0, c0, 2 * minor - major
    for n in range(major):
        out[n, 0], out[n, 1] = r, c
        while error >= 0:
            if steep:
                c += step_c
            else:
                r += step_r
            error -= 2 * major
        if steep:
            r += step_r
        else:
            c += step_c
        error += 2 * minor
    out[major, 0], out[major, 1] = r1, c1
    return out


@kernel
def inner_rim(mask):
    """Mark, as uint8, the pixels of the mask with a 4-neighbour in the image but outside the mask."""
    rows, columns = mask.shape
    out = np.zeros((rows, columns), np.uint8)
    for r in range(rows):
        for c in range(columns):
            if mask[r, c] == 0:
                continue
            out[r, c] = (
                (r > 0 and mask[r - 1, c] == 0)
                or (r < rows - 1 and mask[r + 1, c] == 0)
                or (c > 0 and mask[r, c - 1] == 0)
                or (c < columns - 1 and mask[r, c + 1] == 0)
            )
    return out


@kernel
def walk(mask, start, steps):
    """Walk over the pixels of a mask: always to the first unvisited neighbour, until there is none.

    Args:
        mask: `(rows, columns)`, 0 or 1.
        start: int64 `(2,)`, a pixel of the mask.
        steps: Maximum number of steps.

    Returns:
        int64 `(n, 2)`, the start first.
    """
    rows, columns = mask.shape
    visited = np.zeros((rows, columns), np.bool_)
    out = np.empty((steps + 1, 2), np.int64)
    r, c = start[0], start[1]
    visited[r, c] = True
    out[0, 0], out[0, 1] = r, c
    count = 1
    for _ in range(steps):
        moved = False
        for n in range(8):
            other_r, other_c = r + ROW_STEPS[n], c + COLUMN_STEPS[n]
            inside = 0 <= other_r < rows and 0 <= other_c < columns
            if inside and mask[other_r, other_c] != 0 and not visited[other_r, other_c]:
                r, c, moved = other_r, other_c, True
                break
        if not moved:
            break
        visited[r, c] = True
        out[count, 0], out[count, 1] = r, c
        count += 1
    return out[:count].copy()


@kernel
def _flood(mask, part, r, c, number, queue):
    """Number one 8-connected part and return its pixels."""
    part[r, c] = number
    queue[0, 0], queue[0, 1] = r, c
    done, found = 0, 1
    while done < found:
        r, c = queue[done, 0], queue[done, 1]
        done += 1
        for n in range(8):
            other_r, other_c = r + ROW_STEPS[n], c + COLUMN_STEPS[n]
            inside = 0 <= other_r < mask.shape[0] and 0 <= other_c < mask.shape[1]
            if inside and mask[other_r, other_c] != 0 and part[other_r, other_c] == 0:
                part[other_r, other_c] = number
                queue[found, 0], queue[found, 1] = other_r, other_c
                found += 1
    return found


@kernel
def _expand(mask, parents, others, front, size):
    """Search one level from one side; return the meeting node or -1, and the size of the new frontier."""
    rows, columns = mask.shape
    level = front[:size].copy()
    found = 0
    for node in level:
        r, c = node // columns, node % columns
        for n in range(8):
            other_r, other_c = r + ROW_STEPS[n], c + COLUMN_STEPS[n]
            if not (0 <= other_r < rows and 0 <= other_c < columns) or mask[other_r, other_c] == 0:
                continue
            other = other_r * columns + other_c
            if parents[other] < 0:
                parents[other] = node
                front[found] = other
                found += 1
            if others[other] >= 0:
                return other, found
    return -1, found


@kernel
def _steps_to_root(parents, node):
    steps = 0
    while parents[node] != node:
        node = parents[node]
        steps += 1
    return steps
