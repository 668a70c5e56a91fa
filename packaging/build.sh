#!/bin/sh
# Builds the Debian packages; `make deb` calls it.
#
#   packaging/build.sh OUT [VERSION]
#
# PROGRAMS is a directory with programs that are packed, stripped, instead of being built, to try packages with: `make build` has
# them sooner. TOOLS is where cargo-deb and cargo-auditable are, by default OUT/tools; they are installed there if they are missing.
# OUT gets dwell, dwell-agent and dwell-controller as .deb and their SHA256SUMS; what is built on the way is in
# OUT/build. VERSION is the packages', by default the workspace's with the revision 1. The same commit, compiler and C
# library give the same bytes, wherever the tree and OUT are; packaging/reproduce.sh compares. The list of all
# crates is in each program (`cargo audit bin`, `syft` and others read it).
set -eu

# The newest C library that the programs may ask for: that of the oldest release which they are for, Ubuntu 22.04.
glibc_max=2.35
cargo_deb=3.8.0
cargo_auditable=0.7.7

mkdir -p "${1:?"usage: $0 OUT [VERSION]"}"
out=$(cd "$1" && pwd)
version=${2-}
cd "$(dirname "$0")/.."
cargo=${CARGO:-cargo}
export CARGO_TARGET_DIR="$out/build"
release=$CARGO_TARGET_DIR/release
stage=$release/stage
tools=${TOOLS:-$out/tools}

# What says when and where something was built is the same everywhere.
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
export SOURCE_DATE_EPOCH
export RUSTFLAGS="--remap-path-prefix=$PWD=/usr/src/dwell --remap-path-prefix=$CARGO_TARGET_DIR=/usr/src/target \
--remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=/usr/src/cargo"
export CFLAGS="-ffile-prefix-map=$CARGO_TARGET_DIR=/usr/src/target \
-ffile-prefix-map=${CARGO_HOME:-$HOME/.cargo}=/usr/src/cargo"
export LC_ALL=C.UTF-8 TZ=UTC
umask 022

tool() {
    grep -qs "^\"$1 $2 " "$tools/.crates.toml" ||
        RUSTFLAGS='' CFLAGS='' CARGO_TARGET_DIR="$tools/build" \
            "$cargo" install --locked --root "$tools" --version "$2" "$1"
}
tool cargo-deb "$cargo_deb"
programs="dwell dwell-agent dwell-controller dwell-oci dwell-ssh"
if [ -n "${PROGRAMS-}" ]; then
    mkdir -p "$release"
    for program in $programs; do
        install -s -m 0755 "$PROGRAMS/$program" "$release/$program"
    done
else
    tool cargo-auditable "$cargo_auditable"
    # shellcheck disable=SC2086 # a word for each
    PATH=$tools/bin:$PATH "$cargo" auditable build --locked --release $(printf -- '-p %s ' $programs)
fi
PATH=$tools/bin:$PATH

for program in $programs; do
    newest=$(objdump -T "$release/$program" | grep -o 'GLIBC_[0-9.]*' | sort -Vu | tail -n 1)
    if [ "$(printf '%s\n' "${newest#GLIBC_}" "$glibc_max" | sort -V | tail -n 1)" != "$glibc_max" ]; then
        echo "$program needs $newest, and the packages are for glibc $glibc_max and later;" >&2
        echo "build them on Debian 12 or Ubuntu 22.04" >&2
        exit 1
    fi
done

# What is made from the tree and the programs before it is packed.
rm -rf "$stage"
mkdir -p "$stage/units" "$stage/completions"
for unit in systemd/*.service; do
    sed 's|@PREFIX@|/usr|g' "$unit" >"$stage/units/$(basename "$unit")"
done
"$release/dwell" man "$stage/man"
gzip -9n "$stage"/man/*
for shell in bash zsh fish; do
    "$release/dwell" completions "$shell" >"$stage/completions/$shell"
done

rm -f "$out"/*.deb "$out/SHA256SUMS"
for package in dwell dwell-agent dwell-controller; do
    "$cargo" deb --quiet --locked --no-build --no-strip -p "$package" ${version:+--deb-version "$version"} --output "$out"
done
cd "$out"
sha256sum ./*.deb | sed 's|\./||' >SHA256SUMS
cat SHA256SUMS
