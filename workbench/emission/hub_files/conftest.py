"""What the kernel's tests run under, here and in the builder's checks."""

import pytest


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "kernels_ci: mark a test as a kernel CI test")
