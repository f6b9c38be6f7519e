"""What the whole suite shares: the door to the real data, and hypothesis without a clock."""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "suite", deadline=None, derandomize=True, max_examples=60, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("soak", deadline=None, max_examples=2000, suppress_health_check=list(HealthCheck))
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "suite"))


@pytest.fixture(scope="session")
def realdata() -> Path:
    """The folder of real data, read in place; a test that needs it is marked `real` and skips without it."""
    default = Path(__file__).resolve().parents[2] / "shared" / "realdata"
    folder = Path(os.environ.get("CLICKSIM_REALDATA", default))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}; set CLICKSIM_REALDATA")
    return folder
