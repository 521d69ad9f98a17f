"""The only raw kernel calls: seccomp(2), ptrace(2), prctl(2), pidfds, memory of other processes.

Typed, without policy; a refused call raises `KernelError` with its errno and, where the machine is the
cause, a hint. Nothing else in autoprofile calls the kernel past Python's own os module.
"""

from __future__ import annotations

from autoprofile.kernel import ptrace, seccomp
from autoprofile.kernel.call import KernelError, KernelLacksError, fail, kernel_release
from autoprofile.kernel.process import (
    has_cap_sys_admin,
    open_in_root,
    pidfd_getfd,
    pidfd_open,
    pidfd_send_signal,
    process_vm_readv,
    process_vm_writev,
    read_memory,
    set_child_subreaper,
    set_no_new_privs,
    set_ptracer,
    write_memory,
)

__all__ = [
    "KernelError",
    "KernelLacksError",
    "fail",
    "has_cap_sys_admin",
    "kernel_release",
    "open_in_root",
    "pidfd_getfd",
    "pidfd_open",
    "pidfd_send_signal",
    "process_vm_readv",
    "process_vm_writev",
    "ptrace",
    "read_memory",
    "seccomp",
    "set_child_subreaper",
    "set_no_new_privs",
    "set_ptracer",
    "write_memory",
]
