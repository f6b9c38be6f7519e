"""The kit that a package runs in its own tests against what it adds to clicksim.

Each function takes what the package registers and a folder to work in, tries it in many ways, and raises
`AssertionError` with a sentence for the first promise that is broken. It works with any test runner.

    def test_source(tmp_path):
        check_source("my-source", write_tree, tmp_path)
"""

from clicksim.testing.sources import check_source

__all__ = ["check_source"]
