import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from clicksim.errors import EmptyMaskError, GeometryError, SettingError
from clicksim.phantom import Phantom, make_phantom

TOUCHING = np.ones((3, 3, 3))
COARSE = {"shape": (70, 60, 120), "spacing": (8.0, 8.0, 8.5)}
MIDDLE = {"shape": (100, 66, 150), "spacing": (5.0, 5.0, 6.5)}


def components(label: np.ndarray) -> int:
    return int(ndimage.label(label, TOUCHING)[1])


@pytest.fixture(scope="module")
def fdg() -> Phantom:
    return make_phantom(3, tracer="fdg", n_lesions=9, **MIDDLE)


@pytest.fixture(scope="module")
def psma() -> Phantom:
    return make_phantom(3, tracer="psma", n_lesions=9, **MIDDLE)


def median_of(case: Phantom, organ: int) -> float:
    return float(np.median(case.pet[(case.organs == organ) & (case.label == 0)]))


def test_make_phantom__same_seed_same_bytes() -> None:
    first, second = (make_phantom(5, n_lesions=6, **COARSE) for _ in range(2))
    for name in ("ct", "pet", "label", "organs"):
        assert getattr(first, name).tobytes("F") == getattr(second, name).tobytes("F")
    assert first.grid == second.grid


def test_make_phantom__other_seeds_and_tracers_are_other_patients() -> None:
    base = make_phantom(5, n_lesions=6, **COARSE)
    for other in (make_phantom(6, n_lesions=6, **COARSE), make_phantom(5, tracer="psma", n_lesions=6, **COARSE)):
        for name in ("ct", "pet", "label", "organs"):
            assert not np.array_equal(getattr(base, name), getattr(other, name)), name
        assert other.case_id != base.case_id


def test_make_phantom__arrays_are_as_nibabel_loads_them(fdg: Phantom) -> None:
    kinds = {"ct": np.int16, "pet": np.float32, "label": np.uint8, "organs": np.uint8}
    for name, kind in kinds.items():
        array = getattr(fdg, name)
        assert array.shape == fdg.grid.shape
        assert array.dtype == kind
        assert array.flags.f_contiguous
    assert np.isfinite(fdg.pet).all()
    assert fdg.pet.min() == 0


def test_make_phantom__the_affine_says_where_the_organs_lie(fdg: Phantom) -> None:
    def middle(organ: int) -> np.ndarray:
        return fdg.grid.to_mm(np.argwhere(fdg.organs == organ)).mean(axis=0)

    liver, spleen, brain, bladder, heart = (middle(organ) for organ in (5, 1, 90, 21, 51))
    assert liver[0] > 30 > -30 > spleen[0]  # RAS: the liver on the right, where x is large
    assert heart[0] < 0
    assert brain[2] > heart[2] > liver[2] > bladder[2]
    assert bladder[1] > middle(25)[1]  # in front of the sacrum
    assert middle(2)[0] > 0 > middle(3)[0]


@pytest.mark.parametrize("count", [0, 1, 12, 40])
@pytest.mark.parametrize("tracer", ["fdg", "psma"])
def test_make_phantom__label_has_exactly_the_lesions_asked_for(tracer: str, count: int) -> None:
    case = make_phantom(7, tracer=tracer, n_lesions=count, **MIDDLE)
    assert case.n_lesions == count
    assert components(case.label) == count
    assert set(np.unique(case.label)) <= {0, 1}


@given(
    seed=st.integers(0, 10**6),
    shape=st.tuples(st.integers(8, 24), st.integers(8, 24), st.integers(8, 24)),
    spacing=st.tuples(*[st.sampled_from([1.0, 3.0, 8.0, 30.0])] * 3),
    count=st.integers(0, 4),
    tracer=st.sampled_from(["fdg", "psma"]),
)
def test_make_phantom__any_small_grid_holds_a_patient(
    seed: int, shape: tuple[int, int, int], spacing: tuple[float, float, float], count: int, tracer: str
) -> None:
    try:
        case = make_phantom(seed, tracer=tracer, shape=shape, spacing=spacing, n_lesions=count, instances=True)
    except EmptyMaskError:
        return
    assert case.grid.shape == shape
    assert sorted(set(np.unique(case.label)) - {0}) == list(range(1, count + 1))
    assert components(case.label > 0) == count
    assert (case.pet >= 0).all()


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 30, 30), (30, 1, 30), (30, 30, 1)])
def test_make_phantom__axes_of_one_voxel_are_allowed(shape: tuple[int, int, int]) -> None:
    assert make_phantom(0, shape=shape, n_lesions=0).pet.shape == shape


def test_make_phantom__instances_number_the_components(fdg: Phantom) -> None:
    numbered = make_phantom(3, tracer="fdg", n_lesions=9, instances=True, **MIDDLE)
    assert np.array_equal(numbered.label > 0, fdg.label > 0)
    parts, count = ndimage.label(fdg.label, TOUCHING)
    pairs = set(zip(parts[parts > 0].tolist(), numbered.label[parts > 0].tolist(), strict=True))
    assert len(pairs) == count == 9


@pytest.mark.parametrize("tracer", ["fdg", "psma"])
def test_make_phantom__lesions_lie_in_the_body(tracer: str) -> None:
    case = make_phantom(3, tracer=tracer, n_lesions=150, **MIDDLE)
    healthy = make_phantom(3, tracer=tracer, n_lesions=0, **MIDDLE)  # the same patient
    assert np.array_equal(case.organs, healthy.organs)
    assert healthy.ct[case.label > 0].min() > -900  # lung at the least: no air, no airway
    assert case.ct[case.label > 0].min() > -50


def test_make_phantom__lesions_are_warmer_than_their_surroundings(fdg: Phantom, psma: Phantom) -> None:
    for case in (fdg, psma):
        parts, count = ndimage.label(case.label, TOUCHING)
        warmer = 0
        for number in range(1, count + 1):
            mask = parts == number
            ring = ndimage.binary_dilation(mask, TOUCHING, iterations=3) & (case.label == 0)
            warmer += case.pet[mask].max() > 1.2 * np.median(case.pet[ring])
        assert warmer >= count - 1


def test_make_phantom__fdg_is_hot_in_brain_and_bladder(fdg: Phantom) -> None:
    assert median_of(fdg, 90) > 3.5
    assert median_of(fdg, 21) > 8
    assert 1.3 < median_of(fdg, 5) < 3.5
    assert median_of(fdg, 10) < 1


def test_make_phantom__psma_is_hot_in_kidneys_and_cold_in_brain(psma: Phantom) -> None:
    assert median_of(psma, 2) > 15
    assert median_of(psma, 3) > 15
    assert median_of(psma, 90) < 0.6
    assert 3 < median_of(psma, 5) < 8
    assert median_of(psma, 21) > 8


def test_make_phantom__ct_has_air_lung_soft_tissue_and_bone(fdg: Phantom) -> None:
    assert fdg.ct[0, 0, 0] == -1000
    assert -900 < np.median(fdg.ct[fdg.organs == 11]) < -700
    assert 30 < np.median(fdg.ct[fdg.organs == 5]) < 90
    assert np.median(fdg.ct[fdg.organs == 91]) > 500
    assert fdg.pet[0, 0, 0] < 0.03


def test_make_phantom__volumes_have_a_median_near_one_ml() -> None:
    volumes = []
    for seed in range(6):
        case = make_phantom(seed, tracer=("fdg", "psma")[seed % 2], n_lesions=25, instances=True, **MIDDLE)
        volumes += (np.bincount(case.label.ravel())[1:] * case.grid.voxel_ml).tolist()
    assert 0.6 < np.median(volumes) < 1.6
    assert np.percentile(volumes, 95) > 4


@pytest.mark.parametrize(("tracer", "share"), [("fdg", 513 / 1014), ("psma", 60 / 597)])
def test_make_phantom__share_of_empty_cases_follows_the_tracer(tracer: str, share: float) -> None:
    tiny = {"shape": (18, 12, 24), "spacing": (32.0, 32.0, 42.0)}
    counts = [make_phantom(seed, tracer=tracer, **tiny).n_lesions for seed in range(50)]
    empty = np.mean(np.array(counts) == 0)
    assert abs(empty - share) < 3 * np.sqrt(share * (1 - share) / len(counts))


def test_make_phantom__takes_the_shape_that_the_body_needs() -> None:
    short = make_phantom(1, spacing=(10, 10, 10), height_mm=1500, n_lesions=0)
    tall = make_phantom(1, spacing=(10, 10, 10), height_mm=1900, n_lesions=0)
    assert short.grid.shape[2] < tall.grid.shape[2]
    assert short.grid.spacing == (10, 10, 10)


def test_make_phantom__refuses_what_has_no_room() -> None:
    with pytest.raises(EmptyMaskError, match=r"500 lesions do not fit into fdg_phantom0000.*ask for fewer"):
        make_phantom(0, shape=(12, 12, 12), n_lesions=500)


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"tracer": "fgd"}, SettingError),
        ({"n_lesions": -1}, SettingError),
        ({"height_mm": 0.0}, SettingError),
        ({"shape": (4, 4)}, GeometryError),
        ({"spacing": (1, -1, 1)}, GeometryError),
    ],
)
def test_make_phantom__refuses_impossible_settings(settings: dict, error: type[Exception]) -> None:
    with pytest.raises(error):
        make_phantom(0, **settings)
