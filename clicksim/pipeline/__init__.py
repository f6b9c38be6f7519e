"""The pipeline over all cases: conversion, prompts, verification; in any number of processes, resumable."""

from clicksim.pipeline.convert import Summary, convert_source

__all__ = ["Summary", "convert_source"]
