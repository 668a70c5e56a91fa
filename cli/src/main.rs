//! The program `dwell`; all of it is in the library beside it, where the fuzz programs can reach its parsers.

use std::process::ExitCode;

fn main() -> ExitCode {
    dwell::main()
}
