#!/bin/sh
# Makes the container image of the controller from programs that are built; `make image` calls it.
#
#   packaging/image.sh PROGRAMS OUT [VERSION]
#
# OUT gets dwell-controller-VERSION.tar, which `docker load` and other engines read. Neither an engine nor a network is needed:
# the image has the controller, the command line, the libraries of this machine that they are linked with, and nothing
# else, no shell either. It runs as a user of its own; what is to be kept is in the volume /var/lib/dwell/controller. The same
# programs and libraries give the same bytes.
set -eu

programs=$(cd "${1:?"usage: $0 PROGRAMS OUT [VERSION]"}" && pwd)
mkdir -p "${2:?"usage: $0 PROGRAMS OUT [VERSION]"}"
out=$(cd "$2" && pwd)
cd "$(dirname "$0")/.."
version=${3:-$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml | head -n 1)}
epoch=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
user=65532
export LC_ALL=C.UTF-8 TZ=UTC
umask 022
work=$(mktemp -d "${TMPDIR:-/tmp}/dwell-image.XXXXXX")
trap 'rm -rf "$work"' EXIT

case $(uname -m) in
    x86_64) architecture=amd64 ;;
    aarch64) architecture=arm64 ;;
    *) echo "$0: there is no image for $(uname -m)" >&2 && exit 1 ;;
esac

# A layer of files that belong to root, and one of directories that the controller writes to.
mkdir -p "$work/root/usr/bin" "$work/root/etc/dwell" "$work/own/var/lib/dwell/controller" "$work/own/run/dwell" "$work/image"
chmod 0700 "$work/own/var/lib/dwell/controller"
for program in dwell dwell-controller; do
    install -m 0755 "$programs/$program" "$work/root/usr/bin/$program"
    for library in $(ldd "$programs/$program" | grep -o '/[^ ]*'); do
        mkdir -p "$work/root$(dirname "$library")"
        cp -L "$library" "$work/root$library"
    done
done
printf 'root:x:0:0:root:/:\ndwell:x:%s:%s:dwell:/:\n' "$user" "$user" >"$work/root/etc/passwd"
printf 'root:x:0:\ndwell:x:%s:\n' "$user" >"$work/root/etc/group"
install -m 0644 systemd/controller.yaml "$work/root/etc/dwell/controller.yaml"
install -D -m 0644 LICENSE "$work/root/usr/share/doc/dwell/LICENSE"

pack() {
    tar --create --format=gnu --sort=name --mtime="@$epoch" --numeric-owner --owner="$3" --group="$3" \
        --file "$2" --directory "$1" .
}
digest() { sha256sum "$1" | cut -d ' ' -f 1; }

pack "$work/root" "$work/image/programs.tar" 0
# The directories above its own are root's, as they are everywhere.
tar --create --format=gnu --sort=name --mtime="@$epoch" --numeric-owner --owner="$user" --group="$user" \
    --file "$work/image/own.tar" --directory "$work/own" --no-recursion ./run/dwell ./var/lib/dwell ./var/lib/dwell/controller

created=$(date --utc --date "@$epoch" +%Y-%m-%dT%H:%M:%SZ)
cat >"$work/image/config.json" <<END
{"architecture":"$architecture","os":"linux","created":"$created",
"config":{"User":"$user:$user","WorkingDir":"/","Env":["PATH=/usr/bin","TMPDIR=/var/lib/dwell/controller"],"StopSignal":"SIGTERM",
"Entrypoint":["/usr/bin/dwell-controller"],"ExposedPorts":{"7400/tcp":{}},"Volumes":{"/var/lib/dwell/controller":{}},
"Healthcheck":{"Test":["CMD","/usr/bin/dwell","node","ls"],"Interval":10000000000,"Timeout":5000000000,"StartPeriod":60000000000,"Retries":3},
"Labels":{"org.opencontainers.image.title":"dwell-controller","org.opencontainers.image.version":"$version","org.opencontainers.image.licenses":"Apache-2.0"}},
"rootfs":{"type":"layers","diff_ids":["sha256:$(digest "$work/image/programs.tar")","sha256:$(digest "$work/image/own.tar")"]},
"history":[{"created":"$created","created_by":"programs"},{"created":"$created","created_by":"directories"}]}
END
printf '[{"Config":"config.json","RepoTags":["dwell-controller:%s"],"Layers":["programs.tar","own.tar"]}]\n' "$version" \
    >"$work/image/manifest.json"
pack "$work/image" "$out/dwell-controller-$version.tar" 0
sha256sum "$out/dwell-controller-$version.tar"
