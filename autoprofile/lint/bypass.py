"""Checks for constraints that a sibling call goes around: same effect, other door.

Each compares what one call is refused with what another one is allowed; the argument that matters is named in
the finding, with a call that shows it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from autoprofile.abi.signatures import signature
from autoprofile.abi.syscalls import syscall_nr
from autoprofile.lint.finding import Finding
from autoprofile.lint.view import Want, allowed, permitting, witness, witness_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from autoprofile.profile.model import Profile

__all__ = ["clone_bypass", "compat_entry", "openat_bypass", "socket_bypass", "write_execute_bypass"]

# include/uapi/linux/sched.h: the namespaces that clone(2) and unshare(2) can make
_NAMESPACES = {
    "CLONE_NEWUSER": 0x10000000,
    "CLONE_NEWNS": 0x00020000,
    "CLONE_NEWNET": 0x40000000,
    "CLONE_NEWPID": 0x20000000,
    "CLONE_NEWIPC": 0x08000000,
    "CLONE_NEWUTS": 0x04000000,
    "CLONE_NEWCGROUP": 0x02000000,
}
_PROT_WRITE, _PROT_EXEC = 2, 4
_SHM_EXEC = 0o100000  # include/uapi/linux/shm.h
_READ_IMPLIES_EXEC = 0x0400000  # include/uapi/linux/personality.h
_O_ACCMODE = 3


def _at(arch: str, name: str, argument: str) -> int | None:
    known = signature(arch, name)
    return next((s.index for s in known.args if s.name == argument), None) if known else None


def _first_at(arch: str, name: str, *arguments: str) -> int | None:
    return next((at for a in arguments if (at := _at(arch, name, a)) is not None), None)


def clone_bypass(profile: Profile) -> Iterator[Finding]:
    """`clone` is refused a namespace flag that `clone3` (flags behind a pointer) or `unshare` grants."""
    for arch in profile.arch:
        at = _first_at(arch, "clone", "clone_flags", "flags")
        if at is None:
            continue
        is_open = allowed(profile, arch, "clone")
        refused = {n: b for n, b in _NAMESPACES.items() if not allowed(profile, arch, "clone", {at: (b, b)})}
        if not refused:
            continue
        if allowed(profile, arch, "clone3"):
            said = f"clone may not have {', '.join(refused)}" if is_open else "clone is refused"
            yield Finding(
                "clone3-bypass",
                "high",
                "clone3 goes around the constraint on clone's flags"
                if is_open
                else "clone3 makes namespaces that no rule can refuse",
                f"{said}, but clone3 may have any flag: its flags lie behind a pointer, which a filter "
                "cannot read",
                ("clone", "clone3"),
                "deny clone3 with ENOSYS (`deny: {clone3: ENOSYS}`): libc falls back to clone"
                + (
                    ""
                    if is_open
                    else ", to be allowed with the flags of a thread or a child; learning at level standard "
                    "does both"
                ),
                arch,
            )
        if not is_open:
            continue  # what unshare may make is said by its own rules
        at_unshare = _first_at(arch, "unshare", "unshare_flags", "flags")
        if at_unshare is None:
            continue
        through = [n for n, b in refused.items() if allowed(profile, arch, "unshare", {at_unshare: (b, b)})]
        if through:
            yield Finding(
                "unshare-bypass",
                "high",
                "unshare goes around the constraint on clone's flags",
                f"clone may not have {', '.join(through)}, but unshare may",
                ("clone", "unshare"),
                "constrain the flags of unshare as those of clone, or deny it",
                arch,
            )


def write_execute_bypass(profile: Profile) -> Iterator[Finding]:
    """`mmap` may not map writable and executable, but memory can be made executable afterwards."""
    for arch in profile.arch:
        for name in ("mmap", "mmap2"):
            at = _at(arch, name, "prot")
            both = _PROT_WRITE | _PROT_EXEC
            if (
                at is None
                or not allowed(profile, arch, name, {at: (_PROT_WRITE, _PROT_WRITE)})
                or allowed(profile, arch, name, {at: (both, both)})
            ):
                continue
            for sibling, argument, mask, bits, what in (
                ("mprotect", "prot", _PROT_EXEC, _PROT_EXEC, "turns writable memory into code"),
                ("pkey_mprotect", "prot", _PROT_EXEC, _PROT_EXEC, "turns writable memory into code"),
                ("shmat", "shmflg", _SHM_EXEC, _SHM_EXEC, "maps a shared segment writable and executable"),
                # with its top bit set the call only asks (personality(2): 0xffffffff)
                (
                    "personality",
                    "personality",
                    _READ_IMPLIES_EXEC | 1 << 31,
                    _READ_IMPLIES_EXEC,
                    "makes all that is readable executable",
                ),
            ):
                where = _at(arch, sibling, argument)
                if where is None:
                    continue
                args = witness(profile, arch, sibling, {where: (mask, bits)})
                if args is not None:
                    yield Finding(
                        "write-execute-bypass",
                        "medium",
                        "memory can become executable although mmap may not be writable and executable",
                        f"{name} is refused PROT_WRITE|PROT_EXEC, but {witness_text(arch, sibling, args)} is "
                        f"allowed, which {what}",
                        tuple(sorted((name, sibling))),
                        f"constrain {argument} of {sibling} to values without execution, "
                        "or accept this because the program makes code at run time",
                        arch,
                    )


def socket_bypass(profile: Profile) -> Iterator[Finding]:
    """`socket` is limited to some families, but another call opens sockets of any family."""
    for arch in profile.arch:
        known = signature(arch, "socket")
        rules = permitting(profile, arch, "socket")
        at = _first_at(arch, "socket", "family", "domain")
        if known is None or at is None:
            continue
        limited = bool(rules) and not any(all(c.index != at for c in rule.comparators) for rule in rules)
        refused = not rules and not allowed(profile, arch, "socket")
        if not limited and not refused:
            continue
        said = "socket is limited to some families" if limited else "socket is refused"
        if allowed(profile, arch, "io_uring_setup"):
            yield Finding(
                "io-uring-bypass",
                "high",
                "io_uring goes around constraints on sockets and files",
                f"{said}, but io_uring opens sockets and files (IORING_OP_SOCKET, IORING_OP_OPENAT) without "
                "any syscall that the filter sees",
                ("io_uring_setup", "socket"),
                "deny io_uring_setup with ENOSYS: libraries fall back to epoll",
                arch,
            )
        at_call = _at(arch, "socketcall", "call")
        if at_call is not None:
            args = witness(profile, arch, "socketcall", {at_call: (0xFFFFFFFF, 1)})  # SYS_SOCKET
            if args is not None:
                yield Finding(
                    "socketcall-bypass",
                    "high",
                    "socketcall goes around the constraint on socket's family",
                    f"{said}, but socketcall(SYS_SOCKET) is allowed and its arguments lie behind a pointer",
                    ("socket", "socketcall"),
                    "deny socketcall(SYS_SOCKET) with ENOSYS: libc uses socket where the kernel has it (4.3)",
                    arch,
                )


def openat_bypass(profile: Profile) -> Iterator[Finding]:
    """`openat` may only read, but another call opens for writing or with unseen flags."""
    for arch in profile.arch:
        at = _at(arch, "openat", "flags")
        if at is None:
            continue
        if not allowed(profile, arch, "openat"):
            if allowed(profile, arch, "openat2"):
                yield Finding(
                    "openat-bypass",
                    "medium",
                    "openat2 opens files that no rule can refuse",
                    "openat is refused, but openat2 is allowed and its flags lie behind a pointer",
                    ("openat", "openat2"),
                    "deny openat2 with ENOSYS, if the program has another way",
                    arch,
                )
            continue
        writes: tuple[Want, ...] = ({at: (_O_ACCMODE, 1)}, {at: (_O_ACCMODE, 2)})
        if any(allowed(profile, arch, "openat", want) for want in writes):
            continue
        found = []
        if allowed(profile, arch, "openat2"):
            found.append(
                (
                    "openat2",
                    "its flags lie behind a pointer",
                    "deny openat2 with ENOSYS, if the program has another way",
                )
            )
        if allowed(profile, arch, "creat"):
            found.append(("creat", "it always writes", "deny creat"))
        at_open = _at(arch, "open", "flags")
        if at_open is not None and any(
            allowed(profile, arch, "open", {at_open: (_O_ACCMODE, mode)}) for mode in (1, 2)
        ):
            found.append(
                ("open", "it may open for writing", "constrain the flags of open as those of openat")
            )
        for sibling, why, remedy in found:
            yield Finding(
                "openat-bypass",
                "medium",
                f"{sibling} goes around the constraint on openat's flags",
                f"openat may only read, but {sibling} is allowed and {why}",
                tuple(sorted(("openat", sibling))),
                remedy,
                arch,
            )


def compat_entry(profile: Profile) -> Iterator[Finding]:
    """A second ABI of the same process is open, and wider than the first."""
    if profile.bad_arch.is_permitting:
        yield Finding(
            "foreign-arch-allowed",
            "high",
            "calls of other arches pass unchecked",
            f"bad_arch is {profile.bad_arch}: a 64-bit process can enter the kernel through int 0x80 or x32, "
            "where no rule applies",
            (),
            "set bad_arch to kill",
        )
    native, *others = profile.arch
    for arch in others:
        wider = []
        for name in sorted(n for n in profile.syscalls(arch) if isinstance(n, str)):
            here, there = permitting(profile, native, name), permitting(profile, arch, name)
            if not there or syscall_nr(native, name) is None:
                continue
            open_there = any(not rule.comparators for rule in there)
            open_here = any(not rule.comparators for rule in here)
            if open_there and (not open_here and (here or not allowed(profile, native, name))):
                wider.append(name)
        if wider:
            yield Finding(
                "compat-wider",
                "medium",
                f"the {arch} entry allows more than the {native} one",
                f"{', '.join(wider)}: unconstrained on {arch}, constrained or refused on {native}; any "
                "process of the tree can use either entry",
                tuple(wider),
                f"drop {arch} from the arches when the program does not need it, or constrain it likewise",
                arch,
            )
        if arch == "x32":
            yield Finding(
                "x32-entry",
                "low",
                "the x32 entry is open",
                "x32 is hardly used, and has been a way around filters that forget its numbers",
                (),
                "drop x32 from the arches unless the program is an x32 program",
                arch,
            )
