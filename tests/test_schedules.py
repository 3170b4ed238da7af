"""Schedules: their values, their state, their products, and that a compiled step follows them."""

from __future__ import annotations

import copy
import math
import pickle

import pytest
import torch
from helpers.inputs import images, latents

import vae_fused as vf

SCHEDULES = {
    "constant": lambda: vf.ConstantSchedule(0.3),
    "linear": lambda: vf.LinearSchedule(0.0, 4.0, steps=8),
    "cyclical": lambda: vf.CyclicalSchedule(0.0, 1.0, steps=12, cycles=3),
    "product": lambda: vf.CyclicalSchedule(0.0, 1.0, steps=12, cycles=3) * vf.LinearSchedule(1.0, 4.0, steps=8),
}
every_schedule = pytest.mark.parametrize("build", SCHEDULES.values(), ids=SCHEDULES.keys())


def values(schedule, counts):
    return [schedule.value_at(count) for count in range(counts)]


def test_constant():
    assert values(vf.ConstantSchedule(4), 3) == [4.0, 4.0, 4.0]


def test_linear_reaches_its_end_and_stays():
    assert values(vf.LinearSchedule(2.0, 1.0, steps=4), 7) == [2.0, 1.75, 1.5, 1.25, 1.0, 1.0, 1.0]
    # The end is the number that was given, not one that rounding made of it.
    assert vf.LinearSchedule(0.1, 0.7, steps=3).value_at(3) == 0.7


def test_cyclical_rises_stays_and_begins_again():
    one_cycle = [0.0, 0.25, 0.5, 0.75, 1.0, 1.0, 1.0, 1.0]
    assert values(vf.CyclicalSchedule(0.0, 1.0, steps=32), 36) == [*one_cycle * 4, *[1.0] * 4]


@pytest.mark.parametrize(("steps", "cycles", "proportion"), [(40, 4, 0.5), (37, 5, 0.4), (10, 3, 1.0), (7, 7, 0.1)])
def test_cyclical_is_the_formula_of_its_paper(steps, cycles, proportion):
    def published(t):  # t from 1 on
        tau = ((t - 1) % math.ceil(steps / cycles)) / (steps / cycles)
        return tau / proportion if tau <= proportion else 1.0

    ours = values(vf.CyclicalSchedule(0.0, 1.0, steps=steps, cycles=cycles, proportion=proportion), steps)
    assert ours == pytest.approx([published(t) for t in range(1, steps + 1)], rel=1e-14)


def test_cyclical_between_other_ends():
    assert values(vf.CyclicalSchedule(1.0, 3.0, steps=4, cycles=1), 5) == [1.0, 2.0, 3.0, 3.0, 3.0]


@every_schedule
def test_the_tensor_follows_in_place(build):
    schedule = build()
    tensor = schedule.tensor
    assert tensor.dtype == torch.float64
    assert tensor.shape == ()
    for count in range(20):
        assert schedule.count == count
        assert tensor.item() == schedule.value == schedule.value_at(count)
        schedule.step()
    assert schedule.tensor is tensor


@every_schedule
def test_state_goes_into_another_one(build):
    schedule, other = build(), build()
    for _ in range(5):
        schedule.step()
    state = pickle.loads(pickle.dumps(schedule.state_dict()))
    assert state == {"count": 5}
    tensor = other.tensor
    other.load_state_dict(state)
    assert other.tensor is tensor
    assert tensor.item() == schedule.value
    schedule.step()
    other.step()
    assert other.value == schedule.value


def test_products_count_for_themselves():
    first, second = vf.LinearSchedule(0.0, 1.0, steps=4), vf.LinearSchedule(1.0, 3.0, steps=2)
    first.step()
    product = first * second
    assert values(product, 4) == [a * b for a, b in zip(values(first, 4), values(second, 4), strict=True)]
    assert product.value == 0.0
    product.step()
    assert (product.value, first.count, second.count) == (0.5, 1, 0)


def test_products_with_numbers():
    schedule = vf.LinearSchedule(0.0, 1.0, steps=4)
    assert values(4 * schedule, 3) == values(schedule * 4.0, 3) == [0.0, 1.0, 2.0]
    assert values(2.0 * schedule * schedule, 3) == [0.0, 0.125, 0.5]
    for other in (1j, None, True):
        with pytest.raises(TypeError, match="unsupported operand"):
            schedule * other


def test_copies_are_on_their_own():
    schedule = vf.LinearSchedule(0.0, 1.0, steps=4)
    other = copy.deepcopy(schedule)
    other.step()
    assert (schedule.tensor.item(), other.tensor.item()) == (0.0, 0.25)


def test_device(device):
    schedule = 2.0 * vf.LinearSchedule(0.0, 1.0, steps=4, device=device)
    schedule.step()
    assert schedule.tensor.device.type == device.type
    assert schedule.tensor.item() == 0.5


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (SCHEDULES["constant"], "ConstantSchedule(0.3)"),
        (SCHEDULES["linear"], "LinearSchedule(0.0, 4.0, steps=8)"),
        (SCHEDULES["cyclical"], "CyclicalSchedule(0.0, 1.0, steps=12, cycles=3, proportion=0.5)"),
        (lambda: 2 * vf.ConstantSchedule(0.3), "ConstantSchedule(0.3) * ConstantSchedule(2.0)"),
    ],
)
def test_repr_says_what_it_is(build, text):
    assert repr(build()) == text


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: vf.ConstantSchedule("1"), TypeError, "value must be a number, got str"),
        (lambda: vf.ConstantSchedule(math.nan), ValueError, "value must be finite, got nan"),
        (lambda: vf.LinearSchedule(0.0, math.inf, 3), ValueError, "end must be finite, got inf"),
        (lambda: vf.LinearSchedule(0.0, 1.0, 0), ValueError, "steps must be at least 1, got 0"),
        (lambda: vf.LinearSchedule(0.0, 1.0, 2.5), TypeError, "steps must be an integer, got float"),
        (lambda: vf.LinearSchedule(0.0, 1.0, True), TypeError, "steps must be an integer, got bool"),
        (lambda: vf.CyclicalSchedule(0.0, 1.0, 8, cycles=0), ValueError, "cycles must be at least 1, got 0"),
        (
            lambda: vf.CyclicalSchedule(0.0, 1.0, 3),
            ValueError,
            "steps must be at least one for each of 4 cycles, got 3",
        ),
        (
            lambda: vf.CyclicalSchedule(0.0, 1.0, 8, proportion=0.0),
            ValueError,
            "proportion must be above 0 and at most 1, got 0.0",
        ),
        (
            lambda: vf.CyclicalSchedule(0.0, 1.0, 8, proportion=1.5),
            ValueError,
            "proportion must be above 0 and at most 1, got 1.5",
        ),
        (lambda: SCHEDULES["linear"]().load_state_dict({}), KeyError, r"must hold 'count', got \[\]"),
        (
            lambda: SCHEDULES["linear"]().load_state_dict({"count": -1}),
            ValueError,
            "count must be at least 0, got -1",
        ),
        (
            lambda: SCHEDULES["linear"]().load_state_dict({"count": 1.0}),
            TypeError,
            "count must be an integer, got float",
        ),
    ],
)
def test_errors(build, error, message):
    with pytest.raises(error, match=message):
        build()


def test_a_compiled_step_follows_a_schedule_of_beta_without_recompiling(device):
    torch.compiler.reset()
    operands = [t.requires_grad_() for t in (*images((4, 3, 5), device=device), *latents((4, 6), device=device))]
    schedule = vf.CyclicalSchedule(0.0, 2.0, steps=6, cycles=2)
    criterion = vf.FusedELBOLoss(beta=schedule.tensor)
    compiled = torch.compile(criterion, fullgraph=True, backend="aot_eager")
    compiled(*operands)
    with torch._dynamo.config.patch(error_on_recompile=True):
        for _ in range(8):
            schedule.step()
            torch.testing.assert_close(compiled(*operands), vf.elbo_loss(*operands, beta=schedule.value))
    torch.compiler.reset()


def test_a_schedule_may_be_set_as_beta_later(device):
    operands = (*images((4, 3, 5), device=device), *latents((4, 6), device=device))
    criterion, schedule = vf.FusedELBOLoss(), vf.LinearSchedule(0.0, 1.0, steps=2)
    criterion.beta = schedule.tensor
    for beta in (0.0, 0.5, 1.0, 1.0):
        assert torch.equal(criterion(*operands), vf.elbo_loss(*operands, beta=beta))
        schedule.step()
