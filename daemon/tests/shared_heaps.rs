//! How many heaps the threads of a process have. The only test of its process, since the number is one for all of it.

#![cfg(all(target_env = "gnu", target_pointer_width = "64"))]

use std::sync::Barrier;
use std::{fs, thread};

use dwell_daemon::memory;

#[test]
fn threads_that_allocate_at_the_same_time_share_the_heaps() {
    const THREADS: usize = 12;
    // Where a heap beside the first one begins is a multiple of this.
    const HEAP_BYTES: u64 = 64 << 20;
    let heaps = || {
        let maps = fs::read_to_string("/proc/self/maps").unwrap();
        let unnamed = maps.lines().filter(|line| line.split_ascii_whitespace().count() == 5);
        let starts = unnamed.filter_map(|line| line.split('-').next());
        let starts = starts.map(|start| u64::from_str_radix(start, 16).unwrap());
        starts.filter(|start| start.is_multiple_of(HEAP_BYTES)).count()
    };
    memory::share_heaps(1);
    let before = heaps();
    let all_hold = Barrier::new(THREADS + 1);
    let counted = Barrier::new(THREADS + 1);
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                let held = vec![1_u8; 4096];
                all_hold.wait();
                counted.wait();
                drop(held);
            });
        }
        all_hold.wait();
        let now = heaps();
        counted.wait();
        assert_eq!(now, before, "threads have heaps of their own");
    });
}
