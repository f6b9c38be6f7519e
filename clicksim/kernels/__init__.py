"""All compiled code, one file per subject.

A kernel checks nothing and trusts the invariants that its docstring names; the function above it checks and
converts. Volumes come as flat views of their own memory with the shape in memory order `(slow, middle, fast)`,
so that no layout costs a copy. A kernel calls only kernels of its own file: numba's cache does not notice an
edit elsewhere.
"""
