"""The raw kernel calls, each against the kernel itself."""

from __future__ import annotations

import ctypes
import errno as errno_numbers
import os
from pathlib import Path

import pytest

from autoprofile import kernel
from autoprofile.errors import MachineError
from autoprofile.kernel import ptrace, seccomp
from tests.kernel.tool import answer_for, errno, ret, tool

pytestmark = pytest.mark.kernel


def test_release_is_that_of_uname():
    """kernel_release gives the numbers uname -r starts with."""
    major, minor = kernel.kernel_release()
    assert os.uname().release.startswith(f"{major}.{minor}")


def test_refused_ptrace_is_a_machine_error_with_a_hint():
    """A refused ptrace says what may be in the way, keeps the errno, and has exit status 4."""
    with pytest.raises(kernel.KernelLacksError) as caught:
        ptrace.ptrace_seize(os.getpid())  # nobody may trace himself
    assert isinstance(caught.value, MachineError)
    assert caught.value.errno == errno_numbers.EPERM
    assert caught.value.exit_status == 4
    assert "ptrace_scope" in (caught.value.hint or "")


def test_a_missing_process_is_an_ordinary_error():
    """What is not the machine's fault has exit status 1."""
    with pytest.raises(kernel.KernelError) as caught:
        kernel.process_vm_readv(2**22 - 1, 4096, 1)
    assert caught.value.errno == errno_numbers.ESRCH
    assert caught.value.exit_status == 1


def test_memory_is_read_and_written():
    """process_vm_readv and process_vm_writev move exactly the bytes asked for."""
    memory = ctypes.create_string_buffer(b"0123456789", 11)
    address = ctypes.addressof(memory)
    kernel.process_vm_writev(os.getpid(), address + 2, b"abc\0")
    assert kernel.process_vm_readv(os.getpid(), address, 8) == b"01abc\x0067"
    assert kernel.read_memory(os.getpid(), address, 5) == b"01abc"
    with pytest.raises(kernel.KernelError):
        kernel.process_vm_readv(os.getpid(), 8, 8)


def test_notification_sizes_fit_the_layout_here():
    """The structs of this kernel are at least as large as those autoprofile knows."""
    sizes = seccomp.notification_sizes()
    assert sizes.notif >= 80
    assert sizes.resp >= 24
    assert sizes.data >= 64


def test_actions_are_asked_of_the_kernel():
    """Known actions are available, invented ones are not."""
    assert seccomp.is_action_available(0x7FFF0000)
    assert seccomp.is_action_available(0x7FC00000)
    assert not seccomp.is_action_available(0x12340000)


def test_capability_is_that_of_proc():
    """has_cap_sys_admin agrees with CapEff."""
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("CapEff"))
    assert kernel.has_cap_sys_admin() == bool(int(line.split()[1], 16) & 1 << 21)
    assert not kernel.has_cap_sys_admin(2**22 - 1)


def test_installing_needs_no_new_privs_or_a_capability():
    """Without no_new_privs an unprivileged process gets EACCES, and with it the filter works."""
    done = tool(
        """
drop_to_nobody()
program = bytes.fromhex(args[0])
try:
    seccomp.seccomp_set_mode_filter(program)
except kernel.KernelLacksError as error:
    print(error.errno, error.exit_status)
kernel.set_no_new_privs()
print(seccomp.seccomp_set_mode_filter(program, flags=seccomp.FLAG_TSYNC))
try:
    os.getpriority(os.PRIO_PROCESS, 0)
except OSError as error:
    print(error.errno)
""",
        answer_for(errno(95), 140).hex(),  # getpriority
    )
    assert done.stdout.split() == ["13", "4", "0", "95"], done.stderr


@pytest.mark.parametrize("program", [b"", ret(0x7FFF0000)[:-1], b"\xff" * 8])
def test_a_malformed_program_is_refused(program):
    """The kernel's EINVAL comes through for programs that are none."""
    done = tool(
        """
kernel.set_no_new_privs()
try:
    seccomp.seccomp_set_mode_filter(bytes.fromhex(args[0]))
except kernel.KernelError as error:
    print(error.errno)
""",
        program.hex(),
    )
    assert done.stdout.split() == ["22"], done.stderr


def test_notifications_are_received_answered_and_given_a_file():
    """A listener tells call and arguments, returns values and errnos, and puts a file into the caller."""
    done = tool(
        """
me = '''
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
first, second, third = libc.syscall(110), libc.syscall(110), (libc.syscall(110), ctypes.get_errno())
print(first, os.read(second, 100).decode(), third, os.get_inheritable(second))
'''
read, write = os.pipe()
os.write(write, b"hello"); os.close(write)
command = Command((sys.executable, "-c", me))
with run_filtered(command, bytes.fromhex(args[0]), new_listener=True) as running:
    listener = running.listener
    asked = seccomp.receive(listener)
    print(asked.nr, hex(asked.arch), asked.tid == running.child.pid, seccomp.id_valid(listener, asked.id))
    print(seccomp.respond(listener, asked.id, value=4711))
    print(seccomp.id_valid(listener, asked.id))
    asked = seccomp.receive(listener)
    seccomp.addfd(listener, asked.id, read, flags=seccomp.ADDFD_SEND)
    asked = seccomp.receive(listener)
    seccomp.respond(listener, asked.id, error=95)
    sys.stdout.flush()
    print(shell_status(running.child.wait()))
""",
        answer_for(0x7FC00000, 110).hex(),
    )
    assert done.stdout.splitlines() == [
        "110 0xc000003e True True",
        "True",
        "False",
        "4711 hello (-1, 95) False",
        "0",
    ], done.stderr


def test_a_tracer_may_be_named_with_and_without_yama():
    """set_ptracer does nothing where there is no Yama, and set_child_subreaper can be taken back."""
    done = tool(
        """
kernel.set_ptracer(-1)
kernel.set_child_subreaper(on=True)
kernel.set_child_subreaper(on=False)
print("fine")
"""
    )
    assert done.stdout == "fine\n", done.stderr
