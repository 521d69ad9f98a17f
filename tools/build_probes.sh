#!/bin/sh
# Compile probes/autoprofile.bpf.c to the object given, without debug sections but with the BTF that libbpf
# relocates by. Needs clang, llvm-strip and libbpf's headers; nothing of the running kernel.
set -eu
object=$1
cd "$(dirname "$0")/.."
made=$(mktemp)
trap 'rm -f "$made"' EXIT
(cd probes && clang -target bpf -mcpu=v3 -O2 -g -Wall -Werror -Wno-unused-function \
    -fdebug-prefix-map="$PWD"=probes -c autoprofile.bpf.c -o "$made")
llvm-strip -g "$made"
mkdir -p "$(dirname "$object")"
cp "$made" "$object"
