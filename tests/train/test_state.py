import pytest

from alphanet_zoo.checkpoint import Checkpoint
from alphanet_zoo.errors import UsageError
from alphanet_zoo.train.config import load_config
from alphanet_zoo.train.state import micro_batches_per_process


def checkpoint(accumulate=2, **state):
    return Checkpoint(4, {}, {"config": {"optim": {"accumulate": accumulate}}, **state})


@pytest.mark.parametrize("key", ["micro_batches", "parts"])  # checkpoints of version 0.1.0 have "parts"
@pytest.mark.parametrize(("processes", "each"), [(1, 8), (2, 4), (4, 2), (8, 1)])
def test_the_number_of_micro_batches_is_kept_with_another_number_of_processes(key, processes, each):
    config = load_config("digits", ["optim.accumulate=2"])
    assert micro_batches_per_process(config, processes, checkpoint(**{key: 8})) == each


def test_the_config_decides_at_the_start_and_after_a_change_and_with_synchronised_batch_norm():
    config = load_config("digits", ["optim.accumulate=2"])
    assert micro_batches_per_process(config, 4, None) == 2
    assert micro_batches_per_process(config, 4, checkpoint(accumulate=1, micro_batches=8)) == 2
    synchronised = load_config("digits", ["optim.accumulate=2", "distributed.sync_bn=true"])
    assert micro_batches_per_process(synchronised, 1, checkpoint(micro_batches=8)) == 2


def test_processes_that_do_not_divide_the_micro_batches_are_refused():
    config = load_config("digits", ["optim.accumulate=2"])
    with pytest.raises(UsageError, match="8 micro-batches per step, .* among 3 processes; .* divides 8"):
        micro_batches_per_process(config, 3, checkpoint(micro_batches=8))
