"""The cyclic collector around imports."""

import gc

import pytest

from megatron_ettin.heavy_imports import heavy_imports


@pytest.fixture(autouse=True)
def thawed():
    yield
    gc.enable()
    gc.unfreeze()


def test_the_collector_rests_inside_and_works_afterwards():
    with heavy_imports():
        assert not gc.isenabled()
        with heavy_imports():
            made = [[] for _ in range(1000)]
    assert gc.isenabled()
    assert gc.get_freeze_count() >= len(made)


def test_it_works_again_after_an_error():
    with pytest.raises(ImportError), heavy_imports():
        raise ImportError
    assert gc.isenabled()


def test_a_collector_that_was_off_stays_off():
    gc.disable()
    before = gc.get_freeze_count()
    with heavy_imports():
        pass
    assert not gc.isenabled()
    assert gc.get_freeze_count() == before
