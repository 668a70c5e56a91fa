//! What holds a container: its limits, and what it may do to the host.

use dwell_core::quantity::{Bytes, Millicores};
use dwell_core::workload::{PIDS_DEFAULT, Template};

use super::{Findings, Said};

/// The size of `/dev/shm` that Docker gives, if nothing else is said.
const SHM_DEFAULT: Bytes = Bytes::mebi(64);
/// The period that quotas of processors are counted in, if nothing else is said, in microseconds.
const PERIOD_DEFAULT: u64 = 100_000;
/// The names of Docker's usual runtime.
const RUNTIMES: [&str; 3] = ["", "runc", "io.containerd.runc.v2"];

pub(super) fn translate(said: &Said<'_>, template: &mut Template, findings: &mut Findings) {
    limits(said, template, findings);
    rights(said, findings);
    namespaces(said, findings);
}

fn positive(number: Option<i64>) -> u64 {
    u64::try_from(number.unwrap_or_default()).unwrap_or_default()
}

fn limits(said: &Said<'_>, template: &mut Template, findings: &mut Findings) {
    let host = said.host;
    let nanos = positive(host.nano_cpus);
    let quota = positive(host.cpu_quota).saturating_mul(1_000);
    let period = Some(positive(host.cpu_period)).filter(|period| *period > 0);
    let quota = quota.div_ceil(period.unwrap_or(PERIOD_DEFAULT));
    template.resources.cpu = Millicores(if nanos > 0 { nanos.div_ceil(1_000_000) } else { quota });
    let memory = positive(host.memory);
    template.resources.memory = Bytes(memory);
    if memory > 0 && host.memory_swap.is_some_and(|both| both != host.memory.unwrap_or_default()) {
        findings.change("it has no swap any more: its memory limit is all that it may use");
    }
    match host.pids_limit.filter(|most| *most > 0) {
        Some(most) => template.pids = Some(u32::try_from(most).unwrap_or(u32::MAX)),
        None => findings.change(format!(
            "it may have at most {PIDS_DEFAULT} processes and threads; declare `resources.pids` for another number"
        )),
    }
    let shm = host.shm_size.map(|size| Bytes(positive(Some(size))));
    template.shm_size = shm.filter(|size| *size != SHM_DEFAULT && size.0 > 0);
    let weights = [
        (positive(host.cpu_shares) > 0, "--cpu-shares"),
        (given(host.cpuset_cpus.as_ref()), "--cpuset-cpus"),
        (given(host.cpuset_mems.as_ref()), "--cpuset-mems"),
        (positive(host.memory_reservation) > 0, "--memory-reservation"),
        (host.memory_swappiness.is_some_and(|value| value >= 0), "--memory-swappiness"),
        (host.blkio_weight.is_some_and(|weight| weight > 0), "--blkio-weight"),
        (host.blkio_weight_device.iter().flatten().next().is_some(), "--blkio-weight-device"),
        (host.blkio_device_read_bps.iter().flatten().next().is_some(), "--device-read-bps"),
        (host.blkio_device_write_bps.iter().flatten().next().is_some(), "--device-write-bps"),
        (host.blkio_device_read_iops.iter().flatten().next().is_some(), "--device-read-iops"),
        (host.blkio_device_write_iops.iter().flatten().next().is_some(), "--device-write-iops"),
        (positive(host.cpu_realtime_runtime) > 0, "--cpu-rt-runtime"),
        (host.oom_score_adj.is_some_and(|value| value != 0), "--oom-score-adj"),
        (host.oom_kill_disable == Some(true), "--oom-kill-disable"),
        (given(host.cgroup_parent.as_ref()), "--cgroup-parent"),
        (host.storage_opt.iter().flatten().next().is_some(), "--storage-opt"),
    ];
    for (_, option) in weights.iter().filter(|(is_set, _)| *is_set) {
        findings.change(format!(
            "{option} is not kept: dwell limits processors, memory and processes alone"
        ));
    }
    let driver = host.log_config.as_ref().and_then(|log| log.typ.as_deref());
    if let Some(driver) = driver.filter(|driver| !["", "json-file"].contains(driver)) {
        findings.change(format!(
            "its output does not go to the log driver {driver} any more; `dwell logs` shows it"
        ));
    }
}

fn given(text: Option<&String>) -> bool {
    text.is_some_and(|text| !text.is_empty())
}

fn list<'a>(words: impl IntoIterator<Item = &'a String>) -> Option<String> {
    let words: Vec<&str> = words.into_iter().map(String::as_str).collect();
    (!words.is_empty()).then(|| words.join(", "))
}

/// What its program may do. What an instance could not do would break it, and what an instance could do beyond it would loosen
/// what somebody has tightened.
fn rights(said: &Said<'_>, findings: &mut Findings) {
    let host = said.host;
    let mut without = |option: &str, why: &str| {
        findings.forbid(format!("it was made with {option}, which is not taken over: {why}"));
    };
    if host.privileged == Some(true) {
        without("--privileged", "it can do on the host whatever it likes");
    }
    if let Some(all) = list(host.cap_add.iter().flatten()) {
        without(&format!("--cap-add {all}"), "its program would lack these rights");
    }
    if let Some(all) = list(host.security_opt.iter().flatten()) {
        without(&format!("--security-opt {all}"), "it would be confined otherwise");
    }
    if host.masked_paths.as_ref().is_some_and(Vec::is_empty) && host.privileged != Some(true) {
        without("--security-opt systempaths=unconfined", "its program would see less of /proc");
    }
    let devices = host.devices.iter().flatten().filter_map(|one| one.path_on_host.as_ref());
    if let Some(all) = list(devices) {
        without(&format!("--device {all}"), "its program would lack the device");
    }
    let rules = host.device_cgroup_rules.iter().flatten().next().is_some();
    if rules || host.device_requests.iter().flatten().next().is_some() {
        without("devices such as --gpus", "its program would lack them");
    }
    let names: std::collections::BTreeSet<_> =
        host.sysctls.iter().flatten().map(|(key, _)| key).collect();
    if let Some(all) = list(names) {
        without(&format!("--sysctl {all}"), "the kernel would treat it otherwise");
    }
    if let Some(runtime) = host.runtime.as_deref().filter(|one| !RUNTIMES.contains(one)) {
        without(&format!("--runtime {runtime}"), "dwell's own runtime starts instances with runc");
    }
    if host.auto_remove == Some(true) {
        findings.forbid(
            "it was made with --rm: Docker would remove it when it is stopped, and nothing could be put back; make it anew without",
        );
    }
}

fn namespaces(said: &Said<'_>, findings: &mut Findings) {
    let host = said.host;
    let mut shares = |option: &str, mode: Option<&String>, own: &[&str]| {
        if let Some(mode) = mode.filter(|mode| !own.contains(&mode.as_str())) {
            findings.forbid(format!(
                "it was made with {option} {mode}, and an instance shares that with nobody"
            ));
        }
    };
    shares("--pid", host.pid_mode.as_ref(), &["", "private"]);
    shares("--ipc", host.ipc_mode.as_ref(), &["", "private", "shareable", "none"]);
    shares("--uts", host.uts_mode.as_ref(), &["", "private"]);
    shares("--userns", host.userns_mode.as_ref(), &["", "private"]);
    let cgroup = host.cgroupns_mode.map(|mode| mode.to_string());
    if cgroup.as_deref() == Some("host") {
        // Also the default of hosts with version 1 of control groups.
        findings.change("it sees its own control group alone, not the host's");
    }
}
