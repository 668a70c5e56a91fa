//! Telling a process from a later one with the same id.

use std::fs;

/// When a process started, in clock ticks since the host did; `None` if there is no such process.
///
/// Field 22 of `/proc/PID/stat`, see `proc_pid_stat(5)`. An id together with this number is never used twice while the
/// host is up.
#[must_use]
pub fn start_ticks(pid: u32) -> Option<u64> {
    let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
    ticks_of(&String::from_utf8_lossy(&stat))
}

/// The name of the program, field 2, stands in parentheses and may contain anything. The third field is the first after
/// it.
fn ticks_of(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(") ")?;
    fields.split(' ').nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_may_be_named_like_the_fields_after_its_name() {
        let stat = "7 (a) S 1 (x) R 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 98765 1000 10";
        assert_eq!(ticks_of(stat), Some(98_765));
        assert_eq!(ticks_of("7 (a"), None);
    }

    #[test]
    fn a_process_keeps_its_number_and_one_that_never_was_has_none() {
        let own = start_ticks(std::process::id());
        assert!(own.is_some());
        assert_eq!(own, start_ticks(std::process::id()));
        assert_eq!(start_ticks(0), None);
    }
}
