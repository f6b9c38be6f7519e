"""What the whole suite shares: the door to the real data, and hypothesis without a clock."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from clicksim.catalog import find_source
from clicksim.phantom.layouts import write_deep_psma, write_fdat, write_longitudinal_ct
from clicksim.pipeline import convert

settings.register_profile(
    "suite", deadline=None, derandomize=True, max_examples=60, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("soak", deadline=None, max_examples=2000, suppress_health_check=list(HealthCheck))
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "suite"))


WRITERS = {"fdat": write_fdat, "deep-psma": write_deep_psma, "longitudinal-ct": write_longitudinal_ct}


@pytest.fixture(scope="session")
def realdata() -> Path:
    """The folder of real data, read in place; a test that needs it is marked `real` and skips without it."""
    default = Path(__file__).resolve().parents[2] / "shared" / "realdata"
    folder = Path(os.environ.get("CLICKSIM_REALDATA", default))
    if not folder.is_dir():
        pytest.skip("no real data: set CLICKSIM_REALDATA to the folder that holds them")
    return folder


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three sources, and one catalog of them; not to be changed."""
    root = tmp_path_factory.mktemp("phantoms")
    for name, write in WRITERS.items():
        write(root / name)
        convert(find_source(name), root / name, root / "catalog")
    return root


@pytest.fixture(autouse=True)
def _one_torch_thread(request: pytest.FixtureRequest) -> Iterator[None]:
    """Tests of the model use one thread, so that the workers of a suite do not fight for cores."""
    if request.node.get_closest_marker("torch") is None:
        yield
        return
    torch = pytest.importorskip("torch", reason="needs the extra [torch]")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
