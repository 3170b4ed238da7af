"""How the error tests call an operator: with good arguments, of which one or two are replaced."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch.autograd import forward_ad

import vae_fused as vf


class InsideTransform:
    """The public functions, each called inside forward-mode AD: the way of the transforms."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            with forward_ad.dual_level():
                return getattr(vf, name)(*args, **kwargs)

        return call


APIS = {"kernel": vf, "reference": vf.reference, "transform": InsideTransform()}
BOTH = pytest.mark.parametrize("api", APIS.values(), ids=APIS)


class Case(NamedTuple):
    """Arguments that replace good ones, the exception, and its message as it stands."""

    replaced: dict[str, Any]
    error: type[Exception]
    message: str


def named(cases: list[Case]) -> Any:
    ids = [f"{'-'.join(case.replaced)} {index}" for index, case in enumerate(cases)]
    return pytest.mark.parametrize("case", cases, ids=ids)


def assert_refused(function: Callable[..., Any], good: dict[str, Any], case: Case) -> None:
    """The call raises as the case says, changes no argument and takes nothing from a generator."""
    arguments = {**good, **case.replaced}
    tensors = [a for a in arguments.values() if isinstance(a, torch.Tensor) and a.device.type != "meta"]
    before = [t.detach().clone() for t in tensors]
    versions = [t._version for t in tensors]
    generators = [torch.default_generator, *(a for a in arguments.values() if isinstance(a, torch.Generator))]
    states = [g.get_state() for g in generators]
    with pytest.raises(case.error, match=f"^{re.escape(case.message)}") as caught:
        function(**arguments)
    assert type(caught.value) is case.error
    assert all(torch.equal(t, copy) for t, copy in zip(tensors, before, strict=True))
    assert [t._version for t in tensors] == versions
    assert all(torch.equal(g.get_state(), state) for g, state in zip(generators, states, strict=True))
