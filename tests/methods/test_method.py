"""The interface of a method, as a user's own method meets it."""

import pytest
import torch

from atoll import Batch, Context, Method, NotApplicable, OptimizerSettings


class Smallest(Method):
    """Only what the interface demands."""

    def __init__(self, hyperparameters, context):
        self.context, self.optimizer = context, context.optimizers(context.model.parameters())

    def step(self, batch):
        self.optimizer.zero_grad()
        loss = self.context.loss(self.context.model(batch.inputs), batch.targets)
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def evaluation_model(self):
        return self.context.model

    def finalize(self):
        return self.context.model


def make() -> Smallest:
    settings = OptimizerSettings(learning_rate=0.01, schedule="constant")
    context = Context.on_one_rank(torch.nn.Linear(4, 1), torch.nn.functional.mse_loss, settings=settings)
    return Smallest(Smallest.Hyperparameters(), context)


def test_four_functions_make_a_method_that_trains_on_one_virtual_rank():
    method = make()
    batch = Batch(indices=torch.arange(2), inputs=torch.ones(2, 4), targets=torch.full((2, 1), 3.0))
    losses = list(method.epoch(iter([batch] * 5)))
    assert losses[-1] < losses[0]
    assert method.metrics() == method.inner_ranks() == {}


@pytest.mark.parametrize("call", [lambda m: m.state_dict(), lambda m: m.load_state_dict({})])
def test_a_method_without_checkpoints_says_what_it_lacks(call):
    with pytest.raises(NotImplementedError, match="Smallest cannot be checkpointed; to support it, define state_dict"):
        call(make())


def test_the_numbers_of_ranks_are_checked_before_training():
    class Pair(Smallest):
        min_ranks = max_ranks = 2

    for num_ranks in (1, 3):
        with pytest.raises(NotApplicable, match=f"got {num_ranks}"):
            Pair.check(Pair.Hyperparameters(), OptimizerSettings(), num_ranks)


def test_ranks_that_only_serve_need_one_to_serve():
    class Served(Smallest):
        @classmethod
        def num_servers(cls, hyperparameters):
            return 2

    Served.check(Served.Hyperparameters(), OptimizerSettings(), 3)
    with pytest.raises(NotApplicable, match="needs at least 3 ranks per worker, as 2 of them only serve; got 2"):
        Served.check(Served.Hyperparameters(), OptimizerSettings(), 2)


def test_an_epoch_of_ones_own_is_not_interrupted_unless_the_method_says_that_it_can_be():
    class Passes(Smallest):
        def epoch(self, batches):
            yield from super().epoch(batches)

    class Resumable(Passes):
        resumable_within_epoch = True

        def epoch(self, batches):
            yield from super().epoch(batches)

    class Inherited(Passes):
        pass

    assert [m.resumable_within_epoch for m in (Smallest, Passes, Resumable, Inherited)] == [True, False, True, False]
