//! What the agent makes of a host's network, as root: names and the doctor, on a host of the test's own.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on is to fail on the spot")]

mod doctor;
mod names;
mod runtime;
