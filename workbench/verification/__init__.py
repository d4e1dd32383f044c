"""Verification of an emitted package: digests, answers and speed, in a throw-away environment."""

from workbench.verification.report import Check, Outcome, RivalTiming, VerifyReport
from workbench.verification.verify import verify

__all__ = ["Check", "Outcome", "RivalTiming", "VerifyReport", "verify"]
