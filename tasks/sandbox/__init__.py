"""Boxes in which an agent's commands and a judge's tests run: one interface, isolation stated with every result."""

from tasks.sandbox.box import Box
from tasks.sandbox.collect import OVERFLOW
from tasks.sandbox.factory import SandboxFactory, open_sandbox
from tasks.sandbox.launch import REPORT_DESCRIPTOR
from tasks.sandbox.limits import CommandResult, Limits, SandboxError, SandboxUnavailable

__all__ = [
    "OVERFLOW",
    "REPORT_DESCRIPTOR",
    "Box",
    "CommandResult",
    "Limits",
    "SandboxError",
    "SandboxFactory",
    "SandboxUnavailable",
    "open_sandbox",
]
