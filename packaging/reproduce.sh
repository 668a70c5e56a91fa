#!/bin/sh
# Builds the packages of HEAD twice, from two clones at different places, and compares every byte.
set -eu

cd "$(dirname "$0")/.."
work=$(mktemp -d "${TMPDIR:-/tmp}/dwell-reproduce.XXXXXX")
trap 'rm -rf "$work"' EXIT
export TOOLS="${TOOLS:-$work/tools}"
# Places of different lengths.
for place in a another/place; do
    git clone --quiet --no-local . "$work/$place/tree"
    "$work/$place/tree/packaging/build.sh" "$work/$place/out" >/dev/null
done
if ! cmp "$work/a/out/SHA256SUMS" "$work/another/place/out/SHA256SUMS"; then
    cat "$work/a/out/SHA256SUMS" "$work/another/place/out/SHA256SUMS" >&2
    echo "two builds of the same commit differ" >&2
    exit 1
fi
cat "$work/a/out/SHA256SUMS"
echo "two builds of the same commit are the same"
