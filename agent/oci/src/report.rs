//! Telling a failure to the two that listen: stderr and runc's log.
//!
//! containerd does not show a runtime's stderr, which belongs to the container. It reads the last
//! error from the JSON log it asked for, and passes its text up to `docker start`. Each line is an
//! object with `level`, `msg` and an RFC 3339 `time`; containerd gives up at a line it cannot read.

use std::error::Error;
use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::Path;

use serde_json::json;

use crate::args;

/// Reports `failure` to stderr and, if `args` ask for a JSON log, appends it there.
pub(crate) fn failure(failure: &dyn Error, args: &[OsString]) {
    let message = with_causes(failure);
    // Nobody is left to be told if stderr is closed.
    writeln!(io::stderr(), "{message}").ok();
    let Some(log) = args::json_log(args) else { return };
    if let Err(error) = append(log, &message) {
        writeln!(io::stderr(), "dwell-oci: cannot write the log {log:?}: {error}").ok();
    }
}

fn with_causes(failure: &dyn Error) -> String {
    let mut message = format!("dwell-oci: {failure}");
    let mut cause = failure.source();
    while let Some(error) = cause {
        message.push_str(&format!(": {error}"));
        cause = error.source();
    }
    message
}

fn append(log: &Path, message: &str) -> io::Result<()> {
    let time = jiff::Timestamp::now().to_string();
    let line = json!({"level": "error", "msg": message, "time": time});
    let mut file = OpenOptions::new().create(true).append(true).open(log)?;
    file.write_all(format!("{line}\n").as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot do \"it\"")]
    struct Failure(#[from] io::Error);

    #[test]
    fn the_log_gets_one_more_line_with_all_causes() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("log.json");
        std::fs::write(&log, "{\"level\":\"info\"}\n").unwrap();
        let args: Vec<OsString> =
            ["--log".into(), log.clone().into(), "--log-format=json".into(), "create".into()]
                .into();

        failure(&Failure(io::Error::other("disk full")), &args);

        let text = std::fs::read_to_string(&log).unwrap();
        let line = text.strip_prefix("{\"level\":\"info\"}\n").unwrap().strip_suffix('\n').unwrap();
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!(line["level"], "error");
        assert_eq!(line["msg"], "dwell-oci: cannot do \"it\": disk full");
        line["time"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
    }
}
