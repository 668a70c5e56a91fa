//! A line of somebody's `authorized_keys`.
#![no_main]

libfuzzer_sys::fuzz_target!(|line: &str| {
    let _ = dwell_ssh::authorized_keys::parse_line(line);
});
