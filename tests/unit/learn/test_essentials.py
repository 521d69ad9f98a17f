"""The essentials are measured data: complete, sourced and readable on their arch."""

from __future__ import annotations

from autoprofile.abi.constants import encode_value
from autoprofile.abi.signatures import constrained_args
from autoprofile.abi.syscalls import syscall_nr
from autoprofile.learn.essentials import essential_rules, essentials, source
from autoprofile.profile import Action, SeccompRule


def test_every_entry_reads_on_the_arch_it_was_measured_on() -> None:
    """Each names a syscall, constrained arguments with known symbols, a reason and the libcs that need it."""
    for entry in essentials():
        assert syscall_nr("x86_64", entry.syscall) is not None
        specs = {s.name: s for s in constrained_args("x86_64", entry.syscall)}
        for name, text in entry.args:
            encode_value("x86_64", specs[name], text)
        assert entry.reason
        assert set(entry.libcs) <= {"glibc", "musl"}
        assert entry.when == "always" or syscall_nr("x86_64", entry.when) is not None


def test_the_data_says_where_it_comes_from() -> None:
    """Line 1 names the tool and the versions."""
    assert "tools/learn/essentials.py" in source()
    assert "glibc" in source()


def test_what_a_rule_decides_already_needs_no_essential() -> None:
    """A call that is allowed or denied on purpose is left as it is."""
    bare = {r.syscall for r in essential_rules("x86_64", ("x86_64",), (), (), "standard")}
    denied = SeccompRule("tgkill", Action.errno("EPERM"))
    assert "tgkill" in bare
    assert "tgkill" not in {
        r.syscall for r in essential_rules("x86_64", ("x86_64",), (), (denied,), "standard")
    }


def test_other_arches_get_what_they_share() -> None:
    """i386 and riscv64 get the entries whose calls and symbols they have."""
    for arch in ("i386", "aarch64", "riscv64"):
        rules = essential_rules(arch, (arch,), ("openat",), (), "standard")
        assert {"tgkill", "writev"} <= {r.syscall for r in rules}
        assert all(syscall_nr(arch, str(r.syscall)) is not None for r in rules)
