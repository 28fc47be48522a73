"""Optimizer, checkpoints and stopping in four processes; one launch for all checks, see ``ranks``."""

from __future__ import annotations

import pytest

from tests.support.warm import warm

CHECKS = (
    "optimizer", "round_trips", "resharded", "resume", "elsewhere", "overlapped", "rehearsal", "resized",
    "bad_gradient", "failing_save", "background", "failing_background",
)  # fmt: skip


def launch(folder, *checks):
    result = warm(4, "tests.train.ranks", folder, *checks, status=None)
    return {line.removeprefix("held: ") for line in result.stdout.splitlines() if line.startswith("held: ")}, result


@pytest.fixture(scope="module")
def held(tmp_path_factory):
    return launch(tmp_path_factory.mktemp("ranks"), *CHECKS)


def assert_held(held, check):
    names, result = held
    assert check in names, result.stdout[-4000:] + result.stderr[-8000:]


def test_stable_adamw_follows_the_formula_under_every_sharding(held):
    assert_held(held, "optimizer")


def test_checkpoints_read_back_bit_for_bit_under_other_layouts(held):
    assert_held(held, "round_trips")


def test_the_optimizer_state_is_stored_once_by_the_ranks_that_hold_it_and_survives_other_data_ranks(held):
    assert_held(held, "resharded")


def test_resume_is_bitwise_equal_on_four_ranks_after_a_signal_to_one(held):
    assert_held(held, "resume")


def test_a_run_goes_on_under_another_layout(held):
    assert_held(held, "elsewhere")


def test_messages_beside_the_passes_change_nothing(held):
    assert_held(held, "overlapped")


def test_a_micro_batch_that_one_rank_cannot_hold_is_taken_by_none(held):
    assert_held(held, "rehearsal")


def test_a_run_goes_on_with_other_data_ranks_while_its_batch_grows(held):
    assert_held(held, "resized")


def test_a_bad_gradient_on_one_rank_updates_none(held):
    assert_held(held, "bad_gradient")


def test_when_one_rank_cannot_save_all_say_so(held):
    assert_held(held, "failing_save")


def test_what_is_saved_beside_the_training_is_what_the_loop_would_save(held):
    assert_held(held, "background")


def test_when_one_rank_cannot_save_beside_the_training_all_say_so(held):
    assert_held(held, "failing_background")


@pytest.mark.slow
def test_checkpoints_read_back_bit_for_bit_between_all_layouts(tmp_path):
    assert_held(launch(tmp_path, "every_round_trip"), "every_round_trip")
