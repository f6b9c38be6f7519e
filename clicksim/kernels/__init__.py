"""All compiled code, one file per subject.

A kernel checks nothing and relies on the invariants in its docstring; its caller checks and converts. Volumes are
flat views of their own memory with the shape in memory order `(slow, middle, fast)`, so no layout needs a copy. A
kernel calls only kernels in its own file, because numba's cache does not notice changes in other files.
"""
