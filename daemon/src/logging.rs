//! Where log messages go: to the journal with their fields when systemd started the daemon, otherwise to
//! stderr.

use std::io::{self, IsTerminal};
use std::os::fd::AsFd;

use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// Why nothing can be logged.
#[derive(Debug, thiserror::Error)]
pub enum LoggingError {
    /// The filter is not one.
    #[error("{0:?} is no level such as info, and no filter such as info,dwell_agent=debug")]
    Filter(String, #[source] tracing_subscriber::filter::ParseError),
    /// It was called twice.
    #[error("cannot set up logging")]
    Twice(#[from] tracing_subscriber::util::TryInitError),
}

/// Whether `filter` is one.
///
/// # Errors
/// [`LoggingError::Filter`].
pub fn check(filter: &str) -> Result<(), LoggingError> {
    targets(filter).map(drop)
}

/// Begins to log what `filter` lets through: a level, also by module.
///
/// # Errors
/// [`LoggingError`].
pub fn start(filter: &str) -> Result<(), LoggingError> {
    let filter = targets(filter)?;
    let journal = if stderr_is_journal() { tracing_journald::layer().ok() } else { None };
    let layer = match journal {
        Some(journal) => journal.with_field_prefix(Some("DWELL".to_owned())).boxed(),
        None => tracing_subscriber::fmt::layer()
            .with_writer(io::stderr)
            .with_ansi(io::stderr().is_terminal())
            .boxed(),
    };
    tracing_subscriber::registry().with(layer.with_filter(filter)).try_init()?;
    Ok(())
}

fn targets(filter: &str) -> Result<Targets, LoggingError> {
    filter.parse().map_err(|source| LoggingError::Filter(filter.to_owned(), source))
}

/// Whether stderr leads to the journal: systemd names that stream by device and inode, and a redirection
/// since then would make it another.
fn stderr_is_journal() -> bool {
    std::env::var("JOURNAL_STREAM").is_ok_and(|named| is_stream(&named, io::stderr()))
}

fn is_stream(named: &str, file: impl AsFd) -> bool {
    nix::sys::stat::fstat(file)
        .is_ok_and(|stat| named == format!("{}:{}", stat.st_dev, stat.st_ino))
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn a_stream_that_was_redirected_is_not_the_journals() {
        let directory = tempfile::tempdir().unwrap();
        let open = |name: &str| File::create(directory.path().join(name)).unwrap();
        let (journal, other) = (open("journal"), open("other"));
        let stat = journal.metadata().unwrap();
        let named = format!("{}:{}", stat.dev(), stat.ino());
        assert!(is_stream(&named, &journal));
        assert!(!is_stream(&named, &other));
        assert!(!is_stream("", &journal));
    }
}
