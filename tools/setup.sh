#!/usr/bin/env bash
# Make this clone ready to work: a .venv with the package and its tools, and the real programs the tests run.
#
# Asks the machine what is missing each time instead of trusting a stamp file, so a second run is quick and right.
# As root on Debian or Ubuntu it installs the missing packages; anywhere else it names them and goes on, because the
# tests that need them skip with the same names. Nothing is fetched when nothing is missing.
#
#   tools/setup.sh [--quiet] [--python-only]
#   PYTHON=python3.12   the interpreter .venv is made of

set -euo pipefail
cd "$(dirname "$0")/.."

quiet=no
python_only=no
for option in "$@"; do
    case $option in
        --quiet) quiet=yes ;;
        --python-only) python_only=yes ;;
        *) echo "error: $option is not an option of $0" >&2; exit 2 ;;
    esac
done

python=${PYTHON:-python3}
log=$(mktemp)
rc_policy=/usr/sbin/policy-rc.d
rc_policy_is_ours=no
cleanup() {
    rm -f "$log"
    if [ "$rc_policy_is_ours" = yes ]; then rm -f "$rc_policy"; fi
}
trap cleanup EXIT

say() { if [ "$quiet" = no ]; then echo "setup: $*"; fi; }
fail() {
    echo "error: $1" >&2
    if [ $# -gt 1 ]; then echo "hint: $2" >&2; fi
    exit 1
}

# Run a command with its output kept back, and show the end of it only when the command fails.
hushed() {
    if ! "$@" >"$log" 2>&1 </dev/null; then
        tail -n 15 "$log" >&2
        return 1
    fi
}

is_apt_root() { [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; }

apt_install() {
    # Debian starts a service as soon as it is installed; nobody asked for a web server on port 80. 101 = forbidden
    # by policy (invoke-rc.d(8)).
    if [ ! -e "$rc_policy" ]; then
        printf '#!/bin/sh\nexit 101\n' >"$rc_policy"
        chmod 755 "$rc_policy"
        rc_policy_is_ours=yes
    fi
    export DEBIAN_FRONTEND=noninteractive RUNLEVEL=1
    apt-get install -y --no-install-recommends "$@" >"$log" 2>&1 </dev/null && return 0
    apt-get update >"$log" 2>&1 </dev/null || true # the lists may be stale or empty
    hushed apt-get install -y --no-install-recommends "$@"
}

# -- Python ------------------------------------------------------------------------------------------------------------

command -v "$python" >/dev/null 2>&1 || fail "$python is not on the PATH" "install Python 3.11 or newer, or say which: make setup PYTHON=/path/to/python3"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail "$("$python" --version 2>&1) is too old: autoprofile needs 3.11" "make setup PYTHON=python3.11"

make_venv() {
    say "making .venv of $("$python" --version 2>&1)"
    rm -rf .venv
    "$python" -m venv .venv >"$log" 2>&1
}

if ! .venv/bin/python -c 'import pip' >/dev/null 2>&1; then
    if ! make_venv; then
        # Debian keeps ensurepip in a package of its own, named after the minor version.
        package="$("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')"
        if ! "$python" -c 'import ensurepip, venv' >/dev/null 2>&1 && is_apt_root; then
            say "installing $package"
            apt_install "$package" || apt_install python3-venv || fail "$package cannot be installed"
            make_venv || { cat "$log" >&2; fail "$python cannot make a virtual environment"; }
        else
            cat "$log" >&2
            rm -rf .venv
            fail "$python cannot make a virtual environment" "on Debian and Ubuntu: apt-get install $package (or python3-venv)"
        fi
    fi
fi

if ! lacking=$(.venv/bin/python tools/missing_requirements.py); then
    say "installing into .venv: $(echo "$lacking" | tr '\n' ' ')"
    # compat: a plain path in a .pth file. The import hook that is setuptools' default costs every start 12 ms.
    hushed .venv/bin/python -m pip install --quiet --disable-pip-version-check \
        --config-settings editable_mode=compat -e '.[dev]' ||
        fail "pip could not install autoprofile and its tools into .venv" "pip needs a package index (or PIP_FIND_LINKS) once; later runs need no network"
    lacking=$(.venv/bin/python tools/missing_requirements.py) || fail "pip reported success, yet these are missing: $lacking"
fi
# Where PYTHONDONTWRITEBYTECODE is set, every start would compile the package again; what is up to date is skipped.
.venv/bin/python -m compileall -q autoprofile || true
say ".venv is complete"
if [ "$python_only" = yes ]; then exit 0; fi

# -- the real programs the tests learn and enforce -----------------------------------------------------------------------

# One line per Debian package: the package, then a command that succeeds once what we need of it is here.
programs() {
    cat <<'TABLE'
gcc             command -v gcc
libc6-dev       test -e /usr/include/stdio.h
linux-libc-dev  test -e /usr/include/linux/seccomp.h
binutils        command -v objdump
make            command -v make
git             command -v git
curl            command -v curl
strace          command -v strace
sqlite3         command -v sqlite3
busybox-static  busybox_is_static
nginx-light     in_path nginx
redis-server    in_path redis-server
redis-tools     command -v redis-benchmark
wrk             command -v wrk
musl-tools      command -v musl-gcc
libseccomp2     has_library libseccomp.so.2
libseccomp-dev  test -e /usr/include/seccomp.h
golang-go       command -v go
rustc           command -v rustc
runc            in_path runc
crun            command -v crun
bubblewrap      command -v bwrap
libbpf1         has_library libbpf.so.1
libbpf-dev      test -e /usr/include/bpf/bpf_helpers.h
clang           command -v clang
llvm            command -v llvm-strip
bpftool         in_path bpftool
python3-bpfcc   test -e /usr/lib/python3/dist-packages/bcc/__init__.py
manpages-dev    test -e /usr/share/man/man2/syscalls.2.gz
TABLE
    if [ "$(uname -m)" = x86_64 ]; then
        echo "gcc-multilib    compiles_32_bit"
        # Any release's will do for bcc here: the kernel says itself where its fields are.
        echo "linux-headers-$(if grep -qs '^ID=ubuntu' /etc/os-release; then echo generic; else echo amd64; fi) has_kernel_headers"
    fi
}
in_path() { PATH="$PATH:/usr/sbin:/sbin" command -v "$1"; }
has_library() { /sbin/ldconfig -p 2>/dev/null | grep -q "$1 "; }
busybox_is_static() { [ -x "$(command -v busybox)" ] && ! ldd "$(command -v busybox)"; }
compiles_32_bit() { echo 'int main(void) { return 0; }' | gcc -m32 -x c -o /dev/null -; }

has_kernel_headers() { compgen -G "/usr/src/linux-headers-*/include/generated/autoconf.h" || test -e "/lib/modules/$(uname -r)/build/include/generated/autoconf.h"; }

missing_packages() {
    programs | while read -r package check; do
        eval "$check" >/dev/null 2>&1 </dev/null || echo "$package"
    done
}

mapfile -t packages < <(missing_packages)
if [ ${#packages[@]} -gt 0 ] && is_apt_root; then
    say "installing ${packages[*]}"
    if ! apt_install "${packages[@]}"; then
        # One package this release does not have must not cost all the others.
        for package in "${packages[@]}"; do apt_install "$package" || true; done
    fi
    mapfile -t packages < <(missing_packages)
fi
if [ ${#packages[@]} -gt 0 ]; then
    echo "setup: not installed: ${packages[*]}" >&2
    echo "setup: the tests of those programs will be skipped; as root: apt-get install ${packages[*]}" >&2
else
    say "every program the tests use is here"
fi
