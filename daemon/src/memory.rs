//! Memory that is no longer used goes back to the kernel.
//!
//! The allocator of glibc gives back only what lies at the end of a heap, and each thread has a heap: one small piece
//! that is still used keeps all that was freed before it. A daemon would hold for months what its busiest minute took.
//! So it is asked from time to time to give back every page that is wholly free. Other allocators (musl's) do that
//! by themselves.
//!
//! The program itself is the larger part of a small daemon, and nearly all of it is mapped after the start: for each page
//! that is run the kernel maps the fifteen around it as well. So the mapping is given up from time to time, too. What is run
//! again is mapped again from the page cache, or read again from the file where the host needed the memory for more.

#![expect(unsafe_code, reason = "glibc's allocator and madvise have no safe interface")]

use std::fs;
use std::io;
use std::thread;
use std::time::Duration;

/// How often. With half of it freed since the last time, a heap of 3 MB takes 0.4 ms, one of a gigabyte 90 ms; with nothing
/// new to give back, 0.02 ms and 10 ms.
const INTERVAL: Duration = Duration::from_secs(10);
/// In which of these turns the program's pages are given back, too.
const PROGRAM_TURNS: u32 = 6;
/// The thread calls two functions, and one of them reads a small file.
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
        for turn in 1_u32.. {
            thread::sleep(INTERVAL);
            give_back();
            if turn.is_multiple_of(PROGRAM_TURNS) {
                give_back_program();
            }
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

/// Gives back the pages of the program's code, and of its libraries', that are mapped.
pub fn give_back_program() {
    // Without /proc they stay where they are.
    let maps = fs::read_to_string("/proc/self/maps").unwrap_or_default();
    for (start, length) in maps.lines().filter_map(code) {
        // SAFETY: nobody has written to these pages, since they cannot be written to, so each is read again from its file
        // when it is needed. A mapping does not change: nothing here unloads libraries.
        unsafe {
            // Where the kernel will not, they stay.
            libc::madvise(start as *mut libc::c_void, length, libc::MADV_DONTNEED);
        }
    }
}

/// A mapping of code from a file: where it begins and how long it is, in bytes.
fn code(line: &str) -> Option<(usize, usize)> {
    let mut fields = line.split_ascii_whitespace();
    let (start, end) = fields.next()?.split_once('-')?;
    let is_code = fields.next()? == "r-xp";
    let inode = fields.nth(2)?;
    let start = usize::from_str_radix(start, 16).ok()?;
    let length = usize::from_str_radix(end, 16).ok()?.checked_sub(start)?;
    (is_code && inode != "0").then_some((start, length))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_code_that_stands_in_a_file_is_given_back() {
        let of = |line| code(line);
        let program = "55d0c8000000-55d0c8001000 r-xp 002ab000 fe:00 4711    /usr/bin/dwell-agent";
        assert_eq!(of(program), Some((0x55d0_c800_0000, 0x1000)));
        for other in [
            "55d0c8000000-55d0c8001000 r--p 002ab000 fe:00 4711    /usr/bin/dwell-agent",
            "55d0c8000000-55d0c8001000 rw-p 002ab000 fe:00 4711    /usr/bin/dwell-agent",
            "55d0c8000000-55d0c8001000 rwxp 002ab000 fe:00 4711    /usr/bin/dwell-agent",
            "7fff1c5f2000-7fff1c5f4000 r-xp 00000000 00:00 0       [vdso]",
            "",
        ] {
            assert_eq!(of(other), None, "{other}");
        }
    }
}
