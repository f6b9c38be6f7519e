"""Batch jobs over many cases: each is a public function, and the command line runs it."""

from clicksim.pipeline.convert import Summary, convert_source

__all__ = ["Summary", "convert_source"]
