#!/bin/sh
# Takes out one mechanism after the other and demands that the simulation notices: for every patch in `mutants/`, a
# seed has to fail. A patch says above its difference what it takes out, which rule breaks, and the arguments with
# which a seed is found soon. Works in a worktree of its own, on what is committed.
#
# usage: mutants.sh [NAME...]    SEEDS=2000: how many seeds one may take
set -eu
cd "$(dirname "$0")"
here=$(pwd)
target=${CARGO_TARGET_DIR:-$(git rev-parse --show-toplevel)/target}/mutants
tree=$target/tree
[ $# -gt 0 ] || set -- $(cd mutants && ls | sed -n 's/\.patch$//p')
git worktree prune
[ -d "$tree" ] || git worktree add -q --detach "$tree"
trap 'git worktree remove --force "$tree"' EXIT
unnoticed=
for name; do
    patch=$here/mutants/$name.patch
    git -C "$tree" checkout -q --force --detach "$(git rev-parse HEAD)"
    git -C "$tree" apply "$patch"
    (cd "$tree" && CARGO_TARGET_DIR=$target cargo build -q --locked -p dwell-sim)
    arguments=$(sed -n 's/^run: //p' "$patch")
    # shellcheck disable=SC2086 # several arguments
    if said=$("$target/debug/dwell-sim" --seeds "${SEEDS:-2000}" $arguments --brief); then
        echo "$name: NOT NOTICED"
        unnoticed="$unnoticed $name"
    else
        echo "$name: $(echo "$said" | grep '^seed ' | head -1)"
    fi
done
[ -z "$unnoticed" ] || { echo "the simulation does not notice:$unnoticed"; exit 1; }
