"""The second loader: found and told apart, headers shown as one tree, errors that say what to install."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys

import pytest

from autoprofile.abi import display_name
from autoprofile.errors import MachineError
from autoprofile.profile import Profile
from autoprofile.trace.ebpf import EbpfSource, bcc_headers, bcc_loader, loading, records, sources
from autoprofile.trace.ebpf.libbpf import BpfObject
from autoprofile.trace.ebpf.probes import Probes
from autoprofile.trace.source import Command, auto_source
from tests.conftest import TESTS
from tests.ebpf.conftest import need_bcc

OBJECT = TESTS.parent / "autoprofile/trace/ebpf/data/autoprofile.bpf.o"


@pytest.fixture
def bcc():
    """Have this process load with bcc."""
    need_bcc()
    loading.choose("bcc")
    yield
    loading.choose("auto")


# -- headers ---------------------------------------------------------------------------------------------


def make_headers(root, release: str, *, common: str | None = None) -> None:
    """Make what a distribution installs: in one tree, or in two like Debian."""
    own = root / "usr/src" / f"linux-headers-{release}"
    rest = root / "usr/src" / f"linux-headers-{common}" if common else own
    (own / "include/generated").mkdir(parents=True)
    (own / "include/generated/autoconf.h").write_text("")
    (own / "include/generated/utsrelease.h").write_text(f'#define UTS_RELEASE "{release}"\n')
    (own / "arch/x86/include/generated").mkdir(parents=True)
    (rest / "include/linux").mkdir(parents=True, exist_ok=True)
    (rest / "include/linux/kconfig.h").write_text("")
    (rest / "arch/x86/include/asm").mkdir(parents=True, exist_ok=True)
    text = f"include /usr/src/{rest.name}/Makefile\n" if common else "VERSION = 1\n"
    (own / "Makefile").write_text(text)


def test_headers_in_two_trees_are_shown_as_one(tmp_path):
    """Debian's two trees are merged by links in a directory that is gone afterwards; theirs stay as they are."""
    make_headers(tmp_path, "6.1.0-56-amd64", common="6.1.0-56-common")
    before = sorted(tmp_path.rglob("*"))
    headers = bcc_headers.find_headers(tmp_path, "6.18.0")
    assert headers.release == "6.1.0-56-amd64"
    assert len(headers.trees) == 2
    with bcc_headers.one_tree(headers) as tree:
        for name in ("include/linux/kconfig.h", "include/generated/autoconf.h", "arch/x86/include/asm"):
            assert (tree / name).exists(), name
        assert (tree / "include/linux").is_symlink()
    assert not tree.exists()
    assert sorted(tmp_path.rglob("*")) == before


def test_the_running_kernels_own_headers_come_first(tmp_path):
    """Of several, those of the running kernel are taken, else the newest; incomplete ones never."""
    for release in ("5.10.0-9-amd64", "6.1.0-56-amd64", "6.1.0-9-amd64"):
        make_headers(tmp_path, release)
    (tmp_path / "usr/src/linux-headers-9.9.9/include").mkdir(parents=True)
    assert bcc_headers.find_headers(tmp_path, "5.10.0-9-amd64").release == "5.10.0-9-amd64"
    assert bcc_headers.find_headers(tmp_path, "6.18.0").release == "6.1.0-56-amd64"


def test_without_headers_it_says_what_to_install(tmp_path):
    """No headers at all is status 4 with the package's name."""
    with pytest.raises(MachineError, match="no kernel headers") as caught:
        bcc_headers.find_headers(tmp_path, "6.18.0")
    assert caught.value.exit_status == 4
    assert "linux-headers" in (caught.value.hint or "")


# -- bcc -------------------------------------------------------------------------------------------------


def test_without_bcc_it_says_what_to_install(tmp_path, monkeypatch):
    """No bcc is status 4 with the package's name."""
    monkeypatch.setattr(bcc_loader, "_DEBIAN", tmp_path / "none")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MachineError, match="bcc is not installed") as caught:
        bcc_loader.find_bcc()
    assert caught.value.exit_status == 4
    assert "python3-bpfcc" in (caught.value.hint or "")


@pytest.mark.ebpf
def test_another_package_named_bcc_is_told_apart(bcc, tmp_path, monkeypatch):
    """A package that only has the name is an error, not a traceback."""
    (tmp_path / "bcc.py").write_text("lib = None\n")
    monkeypatch.setattr(bcc_loader, "_DEBIAN", tmp_path / "bcc.py")
    bcc_loader._compiled.cache_clear()
    with pytest.raises(MachineError) as caught:
        Probes()
    assert "another package" in (caught.value.hint or "")


@pytest.mark.ebpf
def test_what_does_not_compile_is_told(bcc, tmp_path, monkeypatch):
    """The compiler's own first errors are in the hint."""
    for file in sources.source_dir().iterdir():
        shutil.copy(file, tmp_path)
    with (tmp_path / sources.MAIN).open("a") as file:
        file.write("int broken(void) { return no_such_thing; }\n")
    monkeypatch.setattr(bcc_loader, "source_dir", lambda: tmp_path)
    bcc_loader._compiled.cache_clear()
    with pytest.raises(MachineError, match="cannot compile") as caught:
        Probes()
    assert "no_such_thing" in (caught.value.hint or "")


@pytest.mark.ebpf
def test_neither_the_path_nor_the_modules_change(bcc):
    """The distribution's packages do not become importable by everybody."""
    path = list(sys.path)
    Probes().close()
    assert sys.path == path
    assert "bcc" not in sys.modules
    assert "BCC_KERNEL_SOURCE" not in os.environ


@pytest.mark.ebpf
def test_headers_of_another_kernel_are_not_believed(bcc, monkeypatch):
    """On a kernel without BTF the headers must be its own: that is tried, not guessed from a version."""
    monkeypatch.setattr(bcc_loader, "offsets_from_btf", lambda fields: None)
    if bcc_headers.find_headers().release == os.uname().release:
        Probes().close()
        return
    with pytest.raises(MachineError, match="do not describe this kernel") as caught:
        Probes()
    assert f"linux-headers-{os.uname().release}" in (caught.value.hint or "")


def own_headers(folder) -> bcc_headers.Headers:
    """Return headers that are this kernel's: the installed ones, with the structures that are read laid out anew."""
    structs: dict[str, dict[str, list[sources.Field]]] = {}
    renamed = ""
    for field in [*sources.fields(), sources.Field("inum", "ns_common", "inum")]:
        if field.before:  # the installed headers' version decides which of its names is looked for
            (at,) = bcc_loader.offsets_from_btf([field]).values()
            for name in (field.path, field.before[-1].split(".")[1]):
                renamed += f"struct {{ char before_{name}[{at}]; char {name}[8]; }}; "
        elif field.struct not in ("mount", "mnt_namespace"):  # the probes' own, for the kernel hides them
            structs.setdefault(field.struct, {}).setdefault(field.path.split(".")[0], []).append(field)
    structs["vfsmount"] = {"mnt_root": [sources.Field("root", "vfsmount", "mnt_root")]}
    lines = ["#pragma once", "#include <linux/types.h>"]
    for struct, members in structs.items():
        lines.append(f"struct {struct} {{ union {{")
        for member, fields in members.items():
            (at,) = bcc_loader.offsets_from_btf([sources.Field("it", struct, member)]).values()
            inner = [field for field in fields if "." in field.path]
            if not inner:
                lines.append(f"struct {{ char before_{member}[{at}]; char {member}[8]; }};")
                continue
            inside = ""
            for field in inner:
                (whole,) = bcc_loader.offsets_from_btf([field]).values()
                name = field.path.split(".")[1]
                inside += f"struct {{ char before_{name}[{whole - at}]; char {name}[8]; }}; "
            lines.append(
                f"struct {{ char before_{member}[{at}]; struct {{ union {{ {inside}}}; }} {member}; }};"
            )
        if struct == "inode":
            lines += [
                renamed,
                *(f"struct {{ union {{ {renamed}}}; }} {name};" for name in ("i_ctime", "__i_ctime")),
            ]
        lines.append("}; };")
    include = folder / "include/linux"
    (include / "sched").mkdir(parents=True)
    (include / "own.h").write_text("\n".join(lines))
    for name in (
        "fdtable",
        "fs",
        "fs_struct",
        "mm_types",
        "mount",
        "ns_common",
        "nsproxy",
        "sched",
        "sched/signal",
    ):
        (include / f"{name}.h").write_text("#include <linux/own.h>\n")
    installed = bcc_headers.find_headers()
    return bcc_headers.Headers(os.uname().release, (folder, *installed.trees))


@pytest.mark.ebpf
def test_a_kernels_own_headers_do_without_btf(bcc, tmp_path, monkeypatch, tracee):
    """With headers that are right, and none of BTF's knowledge, everything is counted exactly, paths included."""
    headers = own_headers(tmp_path)
    monkeypatch.setattr(bcc_loader, "find_headers", lambda: headers)
    monkeypatch.setattr(bcc_loader, "offsets_from_btf", lambda fields: None)
    result = EbpfSource().run(Command((tracee("census"), "forks=31", "compat")))
    assert result.trace.is_complete
    found = {(o.arch, display_name(o.arch, o.nr)): o.count for o in result.trace.observations}
    assert found["x86_64", "getppid"] == 31
    assert found["i386", "getppid"] == 31
    assert {o.program.path for o in result.trace.observations} == {tracee("census")}
    assert any("libc" in path for path in result.trace.meta.libraries)


# -- both ------------------------------------------------------------------------------------------------


@pytest.mark.ebpf
def test_both_loaders_make_the_same_maps():
    """The list that bcc's maps are made by is what the object was built with."""
    need_bcc()
    core = BpfObject(OBJECT.read_bytes(), records.SIZES, question="ask")
    bcc = bcc_loader.BccObject(records.SIZES, {}, (), question="ask")
    try:
        shapes = [
            {name: (m.key_size, m.value_size, m.entries) for name, m in loaded.maps.items()}
            for loaded in (core, bcc)
        ]
    finally:
        core.close()
        bcc.close()
    assert shapes[0] == shapes[1]


@pytest.mark.ebpf
def test_without_btf_bcc_is_the_automatic_choice(monkeypatch):
    """Where the kernel does not describe its types, eBPF is still what `auto` means if bcc can be used."""
    need_bcc()
    assert loading.loader_here() == "core"
    monkeypatch.setattr(loading, "BTF", "/nonexistent")
    assert loading.loader_here() == "bcc"
    assert auto_source() == "ebpf"
    why = loading.lacks("core")
    assert why is not None
    assert "BTF" in why[0]


def autoprofile(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "autoprofile", *map(os.fspath, words)],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=TESTS.parent,
        check=False,
    )


@pytest.mark.ebpf
def test_learning_with_either_gives_the_same_profile(tmp_path):
    """`learn --loader bcc` writes the rules that `--loader core` writes."""
    need_bcc()
    rules = []
    for loader in ("core", "bcc"):
        file = tmp_path / f"{loader}.yaml"
        done = autoprofile(
            "learn", "--backend", "ebpf", "--loader", loader, "-o", file, "--", "ls", "-l", "/"
        )
        assert done.returncode == 0, done.stderr
        rules.append({(r.syscall, r.action, r.args, r.arch) for r in Profile.load(file).rules})
    assert len(rules[0]) > 10
    assert rules[0] == rules[1]


@pytest.mark.ebpf
def test_doctor_tries_both():
    """`doctor` says of each loader whether it works, and what to install where not."""
    done = autoprofile("doctor", "--json")
    found = {
        check["name"]: check for check in json.loads(done.stdout)["checks"] if check["section"] == "ebpf"
    }
    assert {"core", "bcc", "ebpf"} <= found.keys()
    for name in ("core", "bcc"):
        assert found[name]["works"] or found[name]["how"], name
    assert found["core"]["works"]
    assert found["ebpf"]["works"]
    assert found["bcc"]["works"] == (loading.lacks("bcc") is None)
