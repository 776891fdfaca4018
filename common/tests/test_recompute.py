"""Arrays that are computed again: the record of it against nnabla's scheduler, and what is chosen in a network."""
import nnabla as nn
import nnabla.functions as F
import nnabla.parametric_functions as PF
import numpy as np
import pytest

from common.machine.errors import UsageError
from common.out_of_core.observer import Observer
from common.out_of_core.recompute import LEVELS, recompute_again
from common.out_of_core.recorder import Recorder, functions_of
from common.tests.test_out_of_core_record import FUNCTIONS, Net


class NetAgain(Net):
    """The network of a function in which all but the input of it is computed again."""

    def __init__(self, function):
        super().__init__(lambda h: function(F.sin(h)))
        for f in functions_of(self.loss)[2:-1]:
            for v in f.outputs:
                v.recompute = True


def branch(h):
    """A residual block, whose parts need one another."""
    g = PF.batch_normalization(PF.convolution(h, 6, (3, 3), pad=(1, 1), name="a"), name="a")
    g = PF.batch_normalization(PF.convolution(F.relu(g), 4, (3, 3), pad=(1, 1), name="b"), name="b")
    return F.relu(h + g)


AGAIN = {**FUNCTIONS, "residual block": branch, "two blocks": lambda h: branch(branch(h))}
del AGAIN["unlinked"]    # what a detached variable reads is kept


@pytest.mark.parametrize("name", AGAIN)
def test_smallest_budget_is_that_of_nnabla(name):
    smallest, _ = NetAgain(AGAIN[name]).record().minimum()
    assert NetAgain(AGAIN[name]).is_planned_with(smallest)
    assert not NetAgain(AGAIN[name]).is_planned_with(smallest - 1)


def of_a_network(function, level):
    """What is computed again of a function between two convolutions; the loss is its mean."""
    nn.clear_parameters()
    x = nn.Variable.from_numpy_array(np.random.default_rng(0).standard_normal((2, 4, 8, 8)).astype(np.float32))
    nn.random.prng = np.random.RandomState(1)
    loss = F.mean(PF.convolution(function(PF.convolution(x, 4, (3, 3), pad=(1, 1), name="first")), 1, (1, 1)) ** 2)
    return loss, [v.parent.info.type_name for v in recompute_again(loss, level)]


def two_branches(h):
    return branch(branch(h))


def test_the_inner_parts_of_blocks_are_computed_again():
    inner = ["Convolution", "BatchNormalization", "ReLU", "Convolution", "BatchNormalization"]
    assert of_a_network(two_branches, "all")[1] == 2 * inner
    assert of_a_network(two_branches, "cheap")[1] == 2 * [name for name in inner if name != "Convolution"]
    assert of_a_network(two_branches, "none")[1] == []


def test_what_is_used_much_later_is_kept():
    def with_a_skip(h):
        low, late = F.relu(h), F.relu(h)
        for _ in range(8):
            late = branch(late)
        return F.concatenate(low, late, axis=1)
    _, names = of_a_network(with_a_skip, "all")
    assert names == 8 * ["Convolution", "BatchNormalization", "ReLU", "Convolution", "BatchNormalization"]


def test_persistent_and_detached_variables_are_kept():
    def kept(h):
        g = F.relu(h)
        g.persistent = True
        u = F.tanh(h)
        return h + g + u + F.sigmoid(u.get_unlinked_variable(need_grad=False))
    assert of_a_network(kept, "all")[1].count("ReLU") == of_a_network(kept, "all")[1].count("Tanh") == 0


def sums(h):
    """Blocks that end in sums, whose data no backward needs."""
    for name in ("a", "b"):
        h = h + PF.convolution(F.pad(h, (1,) * 4, "reflect"), 4, (3, 3), name=name)
    return h


def test_what_has_lost_its_source_is_kept():
    """nnabla clears the sums, and would compute the frames around them from whatever is in their place."""
    assert of_a_network(sums, "all")[1] == ["Convolution", "Convolution"]
    assert of_a_network(sums, "cheap")[1] == []


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("function", [two_branches, sums, lambda h: F.dropout(branch(h), 0.5) + h])
def test_gradients_and_statistics_are_the_same(function, level):
    def results(level):
        nn.seed(3)
        loss, _ = of_a_network(function, level)
        for _ in range(2):
            loss.forward(clear_no_need_grad=True)
            for p in nn.get_parameters().values():
                p.grad.zero()
            loss.backward(clear_buffer=True)
        return [loss.d.copy(), *(p.g.copy() if p.need_grad else p.d.copy() for p in
                                 nn.get_parameters(grad_only=False).values())]
    for plain, again in zip(results("none"), results(level), strict=True):
        np.testing.assert_array_equal(plain, again)


def test_the_observer_counts_what_is_computed_again():
    """It says what the smallest budget is where nnabla refuses one."""
    smallest = {}
    for level in LEVELS:
        loss, _ = of_a_network(two_branches, level)
        observer, recorder = Observer([]), Recorder()
        loss.forward(clear_no_need_grad=True, function_pre_hook=observer.functions.append)
        loss.backward(clear_buffer=True, function_pre_hook=observer.functions.append)
        recorder.forward(loss)
        recorder.backward(loss)
        smallest[level], *_ = observer.minimum()
        assert smallest[level] == recorder.finish().minimum()[0]
    assert smallest["none"] <= smallest["cheap"] < smallest["all"]


def test_an_unknown_level_is_one_line():
    with pytest.raises(UsageError, match="recompute 'most': choose one of none, cheap, all"):
        of_a_network(two_branches, "most")
