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

/// Makes all threads allocate from this many heaps, where glibc would give each thread one of its own, up to eight for each
/// CPU. What a heap holds on to beside what is used, it holds on to once for each heap.
///
/// It is for a process that waits nearly always: threads that allocate at the same moment wait for each other.
/// To be called before the first thread is started, since a thread keeps the heap that it has.
pub fn share_heaps(count: u8) {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes no pointers, and sets a number that is read when a thread allocates for the first time.
    unsafe {
        // No number of heaps is refused.
        libc::mallopt(libc::M_ARENA_MAX, count.into());
    }
    #[cfg(not(target_env = "gnu"))]
    let _ = count;
}

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
