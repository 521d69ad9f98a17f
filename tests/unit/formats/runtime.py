"""Build the filter of an OCI document as runc does (libcontainer/seccomp/seccomp_linux.go), through libseccomp."""

from __future__ import annotations

import os
import signal
import traceback
from typing import Any

from autoprofile.filter import Program
from autoprofile.formats.oci_export import ARCH_TOKENS
from autoprofile.formats.oci_schema import ACTIONS, OPERATORS
from autoprofile.profile import Action
from tests.unit.filter import libseccomp

ARCHES = {token: arch for arch, token in ARCH_TOKENS.items()}


def action_of(name: str, number: int | None) -> Action:
    """Give the action of a document's words."""
    kind = ACTIONS[name]
    return Action(kind, 1 if number is None else number) if kind == "errno" else Action(kind)


def build(document: dict[str, Any]) -> Program | None:
    """Return the filter that runc would load, None where libseccomp needs more than five seconds for it.

    libseccomp 2.5.4 never returns for some overlapping rules, so a child does it.
    """
    libseccomp.library()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        signal.setitimer(signal.ITIMER_PROF, 5)  # of processor time
        try:
            with os.fdopen(writer, "wb") as pipe:
                pipe.write(_exported(document))
        except BaseException:  # noqa: BLE001 - a child says what went wrong and ends
            traceback.print_exc()
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        raw = pipe.read()
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGPROF:
        return None
    assert raw, "the child's traceback is on stderr"
    return Program.from_bytes(raw)


def _exported(document: dict[str, Any]) -> bytes:
    lib = libseccomp.library()
    default = action_of(document["defaultAction"], document.get("defaultErrnoRet"))
    context = lib.seccomp_init(default.ret)
    for token in document.get("architectures", ()):
        assert lib.seccomp_arch_add(context, libseccomp.TOKENS[ARCHES[token]]) in (0, -17)  # EEXIST
    for entry in document["syscalls"]:
        action = action_of(entry["action"], entry.get("errnoRet"))
        if action == default:  # runc leaves these out
            continue
        args = [_compared(one) for one in entry.get("args", ())]
        apart = len({one.arg for one in args}) < len(args)
        for name in entry["names"]:
            nr = lib.seccomp_syscall_resolve_name(name.encode())
            if nr == -1:  # no such call: left out
                continue
            for some in [[one] for one in args] if apart else [args]:
                array = (libseccomp.ArgCmp * max(len(some), 1))(*some)
                result = lib.seccomp_rule_add_array(context, action.ret, nr, len(some), array)
                assert result in (0, -17), (name, os.strerror(-result))
    fd = os.memfd_create("filter")
    assert lib.seccomp_export_bpf(context, fd) == 0
    os.lseek(fd, 0, os.SEEK_SET)
    return os.read(fd, 1 << 22)


def _compared(one: dict[str, Any]) -> libseccomp.ArgCmp:
    op = libseccomp.OPERATORS[OPERATORS[one["op"]]]
    return libseccomp.ArgCmp(one["index"], op, one["value"], one.get("valueTwo") or 0)
