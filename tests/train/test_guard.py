import math

import pytest
from pydantic import ValidationError

from alphanet_zoo.errors import AlphaNetError
from alphanet_zoo.train.guard import Guard, GuardConfig, GuardState, Verdict

CHANCE = math.log(10)


def guard(**settings):
    return Guard(GuardConfig(memory_steps=10, **settings), CHANCE)


def follow(watch, losses):
    return [watch.observe(finite=True, loss=loss) for loss in losses]


def test_single_steps_that_are_not_finite_are_skipped_and_the_third_in_a_row_rolls_back():
    watch = guard()
    pattern = [False, False, True, False, True, False, False, False]
    verdicts = [watch.observe(finite=finite, loss=2.0) for finite in pattern]
    skip, proceed = Verdict.SKIP, Verdict.CONTINUE
    assert verdicts == [skip, skip, proceed, skip, proceed, skip, skip, Verdict.ROLL_BACK]
    assert watch.state.mean_loss == 2.0 and "3 steps in a row" in watch.reason()


def test_a_loss_without_meaning_does_not_touch_the_mean():
    watch = guard()
    watch.observe(finite=True, loss=2.0)
    watch.observe(finite=False, loss=float("nan"))
    assert watch.state.mean_loss == 2.0


def test_a_run_that_never_learnt_has_not_collapsed():
    assert set(follow(guard(), [CHANCE * 1.2] * 100)) == {Verdict.CONTINUE}


def test_a_collapse_is_seen_once_the_mean_is_back_at_a_guess_and_not_before():
    watch = guard()
    assert set(follow(watch, [1.0] * 50)) == {Verdict.CONTINUE} and watch.state.learnt
    assert set(follow(watch, [CHANCE * 1.05] * 5)) == {Verdict.CONTINUE}
    verdicts = follow(watch, [CHANCE * 1.05] * 60)
    first = verdicts.index(Verdict.ROLL_BACK)
    # 1.0 -> 0.95 x 2.303 along an exponential mean of 10 steps towards 1.05 x 2.303
    assert first + 6 == math.ceil(math.log((CHANCE * 1.05 - 1.0) / (CHANCE * 0.1)) / -math.log(0.9))
    assert "collapsed" in watch.reason()


def test_noise_is_no_collapse():
    watch = guard()
    follow(watch, [0.5] * 50)
    assert set(follow(watch, [6.0] + [0.5] * 20)) == {Verdict.CONTINUE}


def test_one_class_cannot_collapse():
    watch = Guard(GuardConfig(), 0.0)
    assert set(follow(watch, [0.0, 0.1, 0.0])) == {Verdict.CONTINUE}


@pytest.mark.parametrize(
    ("state", "healthy"),
    [
        (GuardState(), True),
        (GuardState(mean_loss=CHANCE), True),
        (GuardState(mean_loss=0.5 * CHANCE, learnt=True), True),
        (GuardState(mean_loss=0.94 * CHANCE, learnt=True), False),
        (GuardState(mean_loss=0.5 * CHANCE, learnt=True, skipped=1), False),
    ],
)
def test_only_a_checkpoint_from_before_the_trouble_is_healthy(state, healthy):
    assert guard().is_healthy(state) is healthy


def test_the_second_rollback_is_refused_with_an_explanation():
    watch = guard()
    for _ in range(3):
        watch.observe(finite=False, loss=0.0)
    watch.check_may_roll_back(12)
    watch.go_back(GuardState(mean_loss=1.0), failed=12, restored=8)
    assert watch.state == GuardState(mean_loss=1.0, rollbacks=1, draw_offset=4)
    for _ in range(3):
        watch.observe(finite=False, loss=0.0)
    with pytest.raises(AlphaNetError, match=r"at step 15, after 1 earlier rollback.*Lower optim.lr"):
        watch.check_may_roll_back(15)
    watch.forget_rollbacks()
    watch.check_may_roll_back(15)


def test_the_draws_behind_two_rollbacks_are_new_ones():
    watch = guard(rollbacks=3)
    watch.go_back(GuardState(), failed=12, restored=8)  # step 9 then draws what step 13 would have
    watch.go_back(GuardState(), failed=10, restored=8)  # step 10 drew 14, so step 9 draws 15
    assert watch.state.draw_offset == 6 and watch.state.rollbacks == 2


def test_the_memory_survives_json():
    state = GuardState(1, 2.5, True, 1, 7)
    assert GuardState(**state.to_dict()) == state


def test_limits_that_contradict_each_other_are_refused():
    with pytest.raises(ValidationError, match="pass a value below collapse_share"):
        GuardConfig(learnt_share=0.9, collapse_share=0.8)
