"""What `Filter` takes: a bad rule is one error, and the filter is as it was before."""

from __future__ import annotations

from typing import Any

import pytest

from autoprofile.errors import AutoprofileError
from autoprofile.filter import Filter
from autoprofile.profile import Action, Arg


@pytest.mark.parametrize(
    "rule",
    [
        ("read", "allow"),
        ("read", None),
        ("read", 0x7FFF0000),
        ("no_such_call", Action.ALLOW),
        ("read", Action.ALLOW, "fd"),
        ("socket", Action.ALLOW, Arg(0, "eq", 1 << 40)),
        (1.5, Action.ALLOW),
        (None, Action.ALLOW),
    ],
)
def test_a_bad_rule_leaves_the_filter_as_it_was(rule: tuple[Any, ...]) -> None:
    """A rule that is none raises our error, and later rules and compiling work as if it had not been given."""
    made = Filter(default=Action.errno("EPERM"))
    made.add_rule("write", Action.ALLOW)
    before = bytes(made.compile())
    with pytest.raises(AutoprofileError):
        made.add_rule(*rule)
    assert bytes(made.compile()) == before
    made.add_rule("read", Action.ALLOW)
    assert made.decide("read", 0).action == Action.ALLOW
    assert len(bytes(made.compile())) > 0


@pytest.mark.parametrize("where", ["default", "bad_arch"])
def test_answers_are_actions(where: str) -> None:
    """A word in place of an action is refused when the filter is made, with what to write."""
    with pytest.raises(AutoprofileError) as caught:
        Filter(**{where: "kill"})  # type: ignore[arg-type]
    assert "Action.parse" in (caught.value.hint or "")
