"""Which calls stand in for one another: what a libc falls back to, and what does the same thing.

Data only; whether a family is added to a profile is decided by the rooms above.
"""

from __future__ import annotations

from autoprofile.abi._tables import read_rows

__all__ = ["ENOSYS_FALLBACK", "fallbacks", "families", "family"]

_families: dict[str, frozenset[str]] = {}
_fallbacks: dict[str, tuple[str, ...]] = {}


def _load() -> None:
    for kind, name, members in read_rows("families.tsv"):
        if kind == "family":
            _families[name] = frozenset(members.split(" "))
        elif kind == "fallback":
            _fallbacks[name] = tuple(members.split(" "))


def families() -> dict[str, frozenset[str]]:
    """Return every family by its name (``stat``, ``open``, ``clone`` …)."""
    if not _families:
        _load()
    return dict(_families)


def family(name: str) -> frozenset[str]:
    """Return the calls that do the same thing as this one, itself included."""
    found: frozenset[str] = frozenset({name})
    for members in families().values():
        if name in members:
            found |= members
    return found


def fallbacks(name: str) -> tuple[str, ...]:
    """Return what a libc may call in place of this call, most likely first; siblings of its family follow."""
    if not _families:
        _load()
    first = _fallbacks.get(name, ())
    return first + tuple(sorted(family(name) - {name, *first}))


# Calls for which libc or others has another way when the kernel answers ENOSYS, but takes EPERM for failure.
# A constant, not read from the file, so that it costs nothing on the enforce path; a test compares the two.
ENOSYS_FALLBACK: frozenset[str] = frozenset(
    {
        "cachestat",
        "clock_adjtime64",
        "clock_getres_time64",
        "clock_gettime64",
        "clock_nanosleep_time64",
        "clock_settime64",
        "clone3",
        "close_range",
        "copy_file_range",
        "epoll_pwait2",
        "execveat",
        "faccessat2",
        "fchmodat2",
        "file_getattr",
        "file_setattr",
        "fsconfig",
        "fsmount",
        "fsopen",
        "fspick",
        "futex_requeue",
        "futex_time64",
        "futex_wait",
        "futex_waitv",
        "futex_wake",
        "getrandom",
        "getxattrat",
        "io_pgetevents_time64",
        "io_uring_setup",
        "landlock_create_ruleset",
        "listmount",
        "listxattrat",
        "lsm_get_self_attr",
        "lsm_list_modules",
        "lsm_set_self_attr",
        "map_shadow_stack",
        "membarrier",
        "memfd_create",
        "mlock2",
        "mount_setattr",
        "move_mount",
        "mq_timedreceive_time64",
        "mq_timedsend_time64",
        "mseal",
        "open_tree",
        "open_tree_attr",
        "openat2",
        "pidfd_open",
        "pidfd_send_signal",
        "pkey_mprotect",
        "ppoll_time64",
        "preadv2",
        "process_mrelease",
        "pselect6_time64",
        "pwritev2",
        "quotactl_fd",
        "recvmmsg_time64",
        "removexattrat",
        "renameat2",
        "rseq",
        "rt_sigtimedwait_time64",
        "sched_rr_get_interval_time64",
        "semtimedop_time64",
        "setxattrat",
        "statmount",
        "statx",
        "timer_gettime64",
        "timer_settime64",
        "timerfd_gettime64",
        "timerfd_settime64",
        "utimensat_time64",
    }
)
