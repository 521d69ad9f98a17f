"""What a level refuses because of what was seen, it refuses in every mode; modes add no rule that says nothing."""

from __future__ import annotations

import pytest

from autoprofile.learn import infer
from autoprofile.lint import lint
from autoprofile.profile import Action
from tests.unit.learn.traces import observed, trace_of

THREAD = 0x3D0F00


@pytest.mark.parametrize("mode", ["allowlist", "denylist", "hybrid"])
@pytest.mark.parametrize("level", ["standard", "permissive"])
def test_what_the_notes_say_is_answered_with_an_error_is(level: str, mode: str) -> None:
    """clone3 that was seen, and a call that always failed, get the error that learning announces."""
    seen = [observed("clone3"), observed("kill", 0, 0, ok=0, failed=1, last_return="EPERM")]
    found = infer(trace_of(*seen), level=level, mode=mode)
    assert any("clone3 is answered with ENOSYS" in str(one) for one in found.decided)
    assert any("kill is answered with EPERM" in str(one) for one in found.decided)
    assert found.profile.decide("clone3").action == Action.errno("ENOSYS")
    assert found.profile.decide("kill", 1, 0).action == Action.errno("EPERM")
    assert found.profile.decide("clone", "CLONE_NEWUSER").action.is_refusing


@pytest.mark.parametrize("mode", ["denylist", "hybrid"])
def test_a_spared_jit_gets_the_error_it_expects(mode: str) -> None:
    """Where a library can do without fresh code, W+X memory answers EACCES, not a mode's EPERM."""
    trace = trace_of(observed("mmap", 0, 0, 3, 0x22))
    trace.meta.libraries["/usr/lib/libpcre2-8.so.0"] = ""  # type: ignore[index]
    profile = infer(trace, level="standard", mode=mode).profile
    assert profile.decide("mmap", 0, 0, 7, 0x22).action == Action.errno("EACCES")


@pytest.mark.parametrize("arch", ["x86_64", "i386"])
@pytest.mark.parametrize("mode", ["denylist", "hybrid"])
@pytest.mark.parametrize("level", ["strict", "standard", "permissive"])
def test_modes_add_no_rule_inside_another(arch: str, mode: str, level: str) -> None:
    """Lint finds no shadowed and no contradicting rule in what was learned."""
    seen = [
        observed("clone", THREAD, arch=arch),
        observed("clone3", arch=arch),
        observed("getuid", arch=arch),
    ]
    profile = infer(trace_of(*seen), level=level, mode=mode).profile
    found = {f.id for f in lint(profile, only=["overlap"])}
    assert not found & {"shadowed-rule", "contradictory-rules"}, found


@pytest.mark.parametrize("level", ["standard", "permissive"])
def test_a_program_that_uses_openat2_keeps_it(level: str) -> None:
    """No libc calls openat2, so that nobody falls back when it is not there: replaying A would end."""
    seen = [observed("openat", 0, 0, 0, run=run) for run in range(3)]
    seen += [observed("openat2", run=run) for run in range(3)]
    found = infer(trace_of(*seen), level=level)
    assert found.profile.decide("openat2").action == Action.ALLOW
    assert any("openat2 is allowed with any flags" in str(one) for one in found.decided)
    doors = [f.syscalls for f in lint(found.profile, only=["openat"])]
    # permissive lets openat write as well, so that there is nothing to go around
    assert doors == ([("openat", "openat2")] if level == "standard" else [])


def test_openat2_is_no_answer_that_anybody_expects() -> None:
    """A run that needs openat2 where a profile answers ENOSYS was denied something."""
    seen = [observed("openat", 0, 0, 0), observed("openat", 0, 0, 0, run=1), observed("openat2", run=1)]
    found = infer(trace_of(*seen), level="permissive")
    assert [bool(one.denials) for one in found.completeness.left_out] == [False, True]


def test_lint_sees_openat2_where_openat_is_not_allowed_at_all() -> None:
    """The stricter profile has the same door."""
    strict = infer(trace_of(observed("openat2"))).profile
    assert [f.id for f in lint(strict, only=["openat"])] == ["openat-bypass"]
