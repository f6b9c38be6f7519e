"""The pipeline over all cases: conversion, prompts, verification; in any number of processes, resumable."""

from clicksim.pipeline.convert import JobSummary, convert_source

__all__ = ["JobSummary", "convert_source"]
