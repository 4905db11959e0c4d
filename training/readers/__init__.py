"""Readers of files: what a plugin imports. docs/readers.md says how to write one."""

from axlebox.runtime.readings import BadLine, Reading, Replaced
from axlebox.training.readers.base import Batch, Job, Reader

__all__ = ["BadLine", "Batch", "Job", "Reader", "Reading", "Replaced"]
