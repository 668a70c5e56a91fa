//! What systemd has the kernel enforce for dwell's units, and whether dwell has ever run into it.

use anyhow::{Result, ensure};

use crate::vm::{fleet::Fleet, guest::Guest};

/// What `/proc/PID/status` says of a unit's main process.
const BOUNDS: [(&str, &str); 4] = [
    // NET_ADMIN, NET_RAW, NET_BIND_SERVICE, NET_BROADCAST, SYS_PTRACE, KILL, DAC_READ_SEARCH; CHOWN, DAC_OVERRIDE, FOWNER,
    // FSETID, SETFCAP.
    ("dwell-agent", "CapBnd:\t0000000080083c3f NoNewPrivs:\t1 Seccomp:\t2"),
    // SYS_ADMIN, NET_ADMIN.
    ("dwell-sandboxes", "CapBnd:\t0000000000201000 NoNewPrivs:\t1 Seccomp:\t2"),
    // None at all.
    ("dwell-controller", "CapBnd:\t0000000000000000 NoNewPrivs:\t1 Seccomp:\t2"),
    // Whatever were taken from it, what people run in containers would lack.
    ("dwell-ssh", "CapBnd:\t000001ffffffffff NoNewPrivs:\t0 Seccomp:\t0"),
];

/// Fails if the exposure of one of them is above 4.0, or is in the other mount namespace than it should be.
const CONFINED: &str = "systemd-analyze security --no-pager --threshold=40 dwell-agent >/dev/null \
    && systemd-analyze security --no-pager --threshold=40 dwell-sandboxes >/dev/null \
    && mounts() { readlink /proc/$(systemctl show -P MainPID $1)/ns/mnt; } \
    && test $(mounts dwell-sandboxes) = $(readlink /proc/1/ns/mnt) \
    && test $(mounts dwell-agent) != $(readlink /proc/1/ns/mnt)";

/// Lines of the kernel about what a filter or a profile has denied. `clone3` (435) is not meant: where a unit may make
/// only some kinds of namespaces, systemd denies it to everybody, since a filter cannot see what it is asked for, and the C
/// library uses `clone` instead.
const DENIED: &str = "journalctl -q -o cat _TRANSPORT=audit + _TRANSPORT=kernel \
    | grep -E 'type=1326|^SECCOMP |apparmor=\"DENIED\"' | grep -v ' syscall=435 '";

pub(super) async fn bounds(fleet: &Fleet) -> Result<String> {
    for guest in fleet.guests() {
        for (unit, expected) in BOUNDS {
            if unit == "dwell-controller" && guest.name() != fleet.first().name() {
                continue;
            }
            let look = format!(
                "grep -E '^(CapBnd|NoNewPrivs|Seccomp):' /proc/$(systemctl show -P MainPID {unit})/status | xargs -d '\\n' echo"
            );
            let seen = guest.sh(&look).await?;
            ensure!(seen == expected, "{unit} on {} has {seen}, not {expected}", guest.name());
        }
        guest.sh(CONFINED).await?;
    }
    Ok("capabilities, filters and privileges of agent, sandboxes, controller and ssh are those of their units; the exposure of the \
        first two is at most 4.0"
        .to_owned())
}

pub(super) async fn denied_calls(fleet: &Fleet) -> Result<String> {
    let mut lines = 0;
    for guest in fleet.guests() {
        ensure_denials_are_seen(guest).await?;
        let said = guest.run(DENIED).await?.stdout;
        let ours: Vec<&str> = said.lines().filter(|line| line.contains("dwell")).collect();
        ensure!(ours.is_empty(), "on {} was denied:\n{}", guest.name(), ours.join("\n"));
        lines += said.lines().count();
    }
    Ok(format!("none of dwell's among {lines} of others; a denial that was provoked is among them"))
}

/// Has a call be denied, which has to be in the journal: else none of dwell's would be.
async fn ensure_denials_are_seen(guest: &Guest) -> Result<()> {
    let provoke = "systemd-run -q --wait --collect -p SystemCallFilter=~mkdir -p SystemCallErrorNumber=EPERM mkdir /tmp/denied";
    let ended = guest.run(provoke).await?;
    ensure!(!ended.status.success(), "a filter of {} filters nothing", guest.name());
    let limit = std::time::Duration::from_secs(60);
    guest.until("a denied call to be told", limit, &format!("{DENIED} | grep mkdir")).await?;
    Ok(())
}
