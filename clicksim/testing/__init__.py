"""Checks that a package runs in its own tests, on what it adds to clicksim.

Each function takes what the package registers and a folder to work in, tries it in many ways, and raises
`AssertionError` with a sentence for the first promise that it breaks. It works with any test runner.

    def test_source(tmp_path):
        check_source("my-source", write_tree, tmp_path)
"""

from clicksim.testing.encoding_checks import check_encoding
from clicksim.testing.sources import check_source
from clicksim.testing.strategy_checks import check_click_strategy, check_stroke_strategy

__all__ = ["check_click_strategy", "check_encoding", "check_source", "check_stroke_strategy"]
