"""The baseline is minimal, justified and labelled."""

from __future__ import annotations

import pytest

from autoprofile.abi.arch import ARCHES
from autoprofile.abi.syscalls import syscall_nr
from autoprofile.learn import BASELINE, baseline, infer, learn
from autoprofile.profile import ANY, Action
from tests.unit.learn.traces import observed, trace_of


def test_every_entry_has_a_reason_and_is_known_somewhere() -> None:
    """An entry without a reason, or that no arch has, does not belong in the baseline."""
    for entry in BASELINE:
        assert entry.reason
        assert any(syscall_nr(a, entry.syscall) is not None for a in ARCHES)


def test_old_sigreturn_only_where_the_kernel_uses_it() -> None:
    """Handlers return through the old sigreturn on i386 and arm alone."""
    assert "sigreturn" in {e.syscall for e in baseline("i386")}
    assert "sigreturn" not in {e.syscall for e in baseline("x86_64")}


@pytest.mark.parametrize("arch", ["x86_64", "i386", "x32", "aarch64", "riscv64"])
def test_profiles_allow_the_baseline_and_say_why(arch: str) -> None:
    """Signal return, restart and exit are allowed though unseen, each labelled as baseline."""
    profile = learn(trace_of(observed("getpid", arch=arch)))
    for entry in baseline(arch):
        (rule,) = profile.rules_for(arch, entry.syscall)
        assert rule.action == Action.ALLOW
        assert rule.args is ANY
        assert rule.evidence.count is None
        assert rule.evidence.reason == f"baseline: {entry.reason}"


def test_observed_entries_are_not_duplicated() -> None:
    """A baseline call that was observed keeps its evidence and gets no second rule."""
    profile = learn(trace_of(observed("exit_group", 0, count=2)))
    (rule,) = profile.rules_for("x86_64", "exit_group")
    assert rule.evidence.count == 2
    assert rule.evidence.reason is None


def test_the_baseline_holds_only_what_it_must() -> None:
    """Nothing but signal return, restart and exit is allowed without having been seen."""
    profile = learn(trace_of(observed("getpid")))
    assert profile.syscalls("x86_64") == {"getpid", "rt_sigreturn", "restart_syscall", "exit", "exit_group"}


@pytest.mark.parametrize("level", ["strict", "standard", "permissive"])
@pytest.mark.parametrize("name", ["rt_sigreturn", "restart_syscall"])
def test_a_baseline_call_is_never_denied_for_its_result(level: str, name: str) -> None:
    """The kernel makes the process issue it: an error that it always met is no reason to deny it."""
    seen = observed(name, ok=0, failed=3, last_return="EPERM", count=3)
    found = infer(trace_of(seen, observed("getpid")), level=level)
    assert found.profile.decide(name).action == Action.ALLOW
    assert not any(name in note for note in found.notes)


def test_the_return_from_a_handler_has_no_result() -> None:
    """rt_sigreturn restores a register of the interrupted code: that is no error of its own to tell of."""
    profile = learn(trace_of(observed("rt_sigreturn", ok=0, failed=1, last_return="EINTR")))
    reasons = {r.syscall: r.evidence.reason for r in profile.rules if r.evidence}
    assert reasons["rt_sigreturn"] is None
