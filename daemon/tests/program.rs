//! The pages of a program, seen from the kernel. The only test of its process: what others run would be mapped again.

#![cfg(target_env = "gnu")]

use std::fs;

use dwell_daemon::memory;

#[test]
fn code_that_is_not_run_any_more_does_not_stay_resident() {
    let resident_kib = || -> usize {
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("RssFile:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    };
    let before = resident_kib();
    memory::give_back_program();
    let after = resident_kib();
    assert!(after < before, "{after} of {before} KiB are left");
    // It goes on, and so do its libraries.
    assert_eq!(format!("{:.1}", 2.5_f64.powi(2)), "6.2");
}
