//! What the allocator keeps, seen from the kernel. The only test of its process: what others allocate would be measured.

#![cfg(target_env = "gnu")]

use std::fs;

use dwell_daemon::memory;

#[test]
fn what_a_burst_took_is_given_back_although_pieces_of_it_are_still_used() {
    const PIECES: usize = 200_000;
    let resident_kib = || -> usize {
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    };
    let before = resident_kib();
    let burst: Vec<Box<[u8; 400]>> = (0..PIECES).map(|_| Box::new([1; 400])).collect();
    let held = resident_kib() - before;
    assert!(held > 70 << 10, "{held} KiB are too few for a test");
    // One of a thousand stays, the last one among them: no end of the heap is free.
    let used: Vec<_> =
        burst.into_iter().enumerate().filter(|(index, _)| index % 1_000 == 999).collect();
    let kept = resident_kib() - before;
    assert!(kept > held / 2, "the allocator gave {} of {held} KiB back by itself", held - kept);

    memory::give_back();
    let left = resident_kib() - before;
    assert!(left < held / 10, "{left} of {held} KiB are left");
    assert_eq!(used.len(), PIECES / 1_000);
}
