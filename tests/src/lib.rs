//! The lab, and what dwell must survive in it.
//!
//! [`lab`] makes several hosts on one machine, each a network namespace with a Docker engine of its
//! own, and runs dwell's controller and agents on them as the separate processes they are in
//! production. [`vm`] boots real machines with systemd and installs the packages on them. [`demo`] shows what they do together, [`bench`] how fast. End-to-end tests in `tests/` are written upon
//! [`lab::Lab::test`].

pub mod bench;
pub mod churn;
pub mod demo;
pub mod lab;
pub mod vm;
