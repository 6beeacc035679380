"""Containers that are well, and ill in several ways, on the real engine."""

from tests.tasks.health.containers import containers

__all__ = ["containers"]
