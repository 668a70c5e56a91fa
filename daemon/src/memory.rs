//! Memory that is no longer used goes back to the kernel.
//!
//! The allocator of glibc gives back only what lies at the end of a heap, and each thread has a heap: one small piece
//! that is still used keeps all that was freed before it. A daemon would hold for months what its busiest minute took.
//! So it is asked from time to time to give back every page that is wholly free. Other allocators (musl's) do that
//! by themselves.

#![expect(unsafe_code, reason = "glibc's allocator has no safe interface")]

use std::io;
use std::thread;
use std::time::Duration;

/// How often. With half of it freed since the last time, a heap of 3 MB takes 0.4 ms, one of a gigabyte 90 ms; with nothing
/// new to give back, 0.02 ms and 10 ms.
const INTERVAL: Duration = Duration::from_secs(10);
/// The thread calls one function.
const STACK_BYTES: usize = 64 << 10;

/// Begins to give back what is not used, for as long as the process lives. To be called once.
///
/// # Errors
/// If no thread can be started.
pub fn keep_given_back() -> io::Result<()> {
    let thread = thread::Builder::new().name("dwell-memory".to_owned()).stack_size(STACK_BYTES);
    let keep = || {
        loop {
            thread::sleep(INTERVAL);
            give_back();
        }
    };
    thread.spawn(keep).map(drop)
}

/// Gives back every page that is wholly free.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes no pointers, and locks each heap itself; threads that allocate meanwhile wait.
    unsafe {
        libc::malloc_trim(0);
    }
}
