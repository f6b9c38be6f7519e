"""Batch jobs over many cases: each is a public function, and the command line runs it."""
