//! The controller of dwell: it owns what is declared, decides where it runs, and tells the nodes.

pub mod model;
