#!/bin/sh
# Puts dwell on this machine, or takes it off again; `make install` and `make uninstall` call it.
#
#   systemd/install.sh install|uninstall PROGRAMS DESTDIR PREFIX
#
# PROGRAMS is the directory with the built programs. They need not be built on this machine: copied here with the directory
# that this file is in, `systemd/install.sh install DIRECTORY '' /usr/local` installs them. With a DESTDIR (for packages) only files are written,
# beneath it; without one, systemd and Docker are told. Nothing is started: joining comes first. Both
# can be repeated. What an operator has changed is not overwritten and not removed.
set -eu

action=${1:?"usage: $0 install|uninstall PROGRAMS DESTDIR PREFIX"}
built=${2:?"the directory with the built programs is missing"}
dest=${3-}
prefix=${4:-/usr/local}
here=$(cd "$(dirname "$0")" && pwd)

programs="dwell dwell-controller dwell-agent dwell-oci dwell-ssh"
services="dwell-controller.service dwell-agent.service dwell-sandboxes.service dwell-ssh.service dwell-instances.service"
bin=$dest$prefix/bin
manual=$dest$prefix/share/man/man1
etc=$dest/etc/dwell
networkd=$dest/etc/systemd/networkd.conf.d/50-dwell.conf
# systemd looks for units below these two prefixes, and in /etc.
case $prefix in
    /usr | /usr/local) units=$dest$prefix/lib/systemd/system ;;
    *) units=$dest/etc/systemd/system ;;
esac

live() { [ -z "$dest" ]; }
systemd_runs() { live && [ -d /run/systemd/system ]; }

install_all() {
    mkdir -p "$bin" "$units" "$etc" "$(dirname "$networkd")"
    for program in $programs; do
        install -m 0755 "$built/$program" "$bin/$program"
    done
    "$built/dwell" man "$manual"
    for service in $services; do
        sed "s|@PREFIX@|$prefix|g" "$here/$service" >"$units/$service"
        chmod 0644 "$units/$service"
    done
    # Earlier versions enabled it; it would have the boot wait for Docker.
    rm -f "$dest/etc/systemd/system/multi-user.target.wants/dwell-instances.service"
    for config in agent.yaml controller.yaml; do
        [ -e "$etc/$config" ] || install -m 0644 "$here/$config" "$etc/$config"
    done
    install -m 0644 "$here/networkd.conf" "$networkd"
    if live; then
        "$bin/dwell-agent" install-runtime
    else
        # This dwell-agent was built for another root; it only merges one file here.
        "$built/dwell-agent" install-runtime --no-reload --program "$prefix/bin/dwell-oci" \
            --daemon-json "$dest/etc/docker/daemon.json"
    fi
    systemd_runs && systemctl daemon-reload
    cat <<END
dwell is installed.
  The controller, on one host:   systemctl enable --now dwell-controller && dwell node token
  Each host that runs instances: dwell-agent join --controller HOST:7400 --token TOKEN
                                 systemctl enable --now dwell-agent dwell-ssh
                                 dwell-agent doctor
After an upgrade, restart dwell-sandboxes and dwell-agent whenever you like; restarting dwell-ssh ends the SSH sessions of the host.
END
}

uninstall_all() {
    # It names the instances that there are, and says what to do.
    # The one that is installed may be too old to know the question.
    agent=$built/dwell-agent
    [ -x "$agent" ] || agent=$bin/dwell-agent
    if live && [ -x "$agent" ]; then
        "$agent" cleanup --check >&2 || exit 1
    fi
    for service in $services; do
        systemd_runs && { systemctl disable --now "$service" 2>/dev/null || true; }
        rm -f "$units/$service"
    done
    systemd_runs && systemctl daemon-reload
    if [ -x "$bin/dwell-agent" ]; then
        if live; then
            # Routes, firewall rules and addresses; without an engine to ask there may be stopped containers, which stay.
            "$bin/dwell-agent" cleanup --yes || echo "something of the above is left on this host" >&2
            "$bin/dwell-agent" uninstall-runtime || echo "the runtime dwell is still in /etc/docker/daemon.json" >&2
        else
            "$bin/dwell-agent" uninstall-runtime --no-reload --daemon-json "$dest/etc/docker/daemon.json"
        fi
    fi
    for program in $programs; do
        rm -f "$bin/$program"
    done
    rm -f "$manual/dwell.1" "$manual"/dwell-*.1
    rm -f "$networkd"
    for config in agent.yaml controller.yaml; do
        if cmp -s "$here/$config" "$etc/$config"; then
            rm -f "$etc/$config"
        fi
    done
    # Those that nothing else is in.
    for directory in "$etc" "$(dirname "$networkd")" "$manual" "$units" "$(dirname "$units")"; do
        rmdir "$directory" 2>/dev/null || true
    done
    if live; then
        rm -f /run/dwell/sandboxes.sock
        for directory in /run/dwell/*/ /run/dwell; do
            rmdir "$directory" 2>/dev/null || true
        done
    fi
    for left in "$etc" "$dest/var/lib/dwell"; do
        [ -e "$left" ] && echo "$left is left as it is; delete it if nothing in it is wanted any more."
    done
    echo "dwell is uninstalled."
}

case $action in
    install) install_all ;;
    uninstall) uninstall_all ;;
    *) echo "$0: unknown action $action: install or uninstall" >&2 && exit 2 ;;
esac
