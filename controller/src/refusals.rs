//! Who was not let in, told once a minute.
//!
//! Whoever reaches the port can be refused as often as they like. A line for each would bury what else the log says, so
//! they are counted by reason, with the last one as an example.
//!
//! Owns: the counts since the last line. As many entries as there are reasons.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dwell_core::instance::sanitize;
use tokio_util::sync::CancellationToken;

/// How often what was refused is told.
const EVERY: Duration = Duration::from_secs(60);
/// The longest example, in bytes.
const EXAMPLE_MAX: usize = 200;

/// Why somebody was not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Reason {
    /// Too many connections of one source have not got through TLS yet.
    Crowd,
    /// TLS failed, or took too long.
    Handshake,
    /// The certificate does not say who it speaks for.
    Certificate,
    /// Too many connections of one source without a certificate.
    Anonymous,
    /// Too many attempts to join or to renew.
    Attempts,
    /// A join was refused.
    Join,
    /// A renewal was refused.
    Renewal,
    /// A node asks for too much at once, or for what it is not given any more.
    Bounds,
}

impl Reason {
    fn words(self) -> &'static str {
        match self {
            Self::Crowd => "connections beyond the share of their source",
            Self::Handshake => "TLS handshakes",
            Self::Certificate => "certificates",
            Self::Anonymous => "connections without a certificate beyond the share of their source",
            Self::Attempts => "attempts to join or to renew beyond the rate",
            Self::Join => "joins",
            Self::Renewal => "renewals",
            Self::Bounds => "requests of nodes",
        }
    }
}

/// What was refused since the last line; clones are the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Refusals(Arc<Mutex<BTreeMap<Reason, Counted>>>);

#[derive(Debug)]
struct Counted {
    count: u64,
    /// Where the last one came from, and what was wrong with it.
    last: String,
}

impl Refusals {
    /// Counts somebody who was not let in.
    pub(crate) fn note(&self, reason: Reason, from: Option<IpAddr>, detail: &dyn fmt::Display) {
        let from = from.map_or_else(|| "this host".to_owned(), |from| from.to_string());
        tracing::debug!(from, %detail, "refused {}", reason.words());
        let last = sanitize(&format!("{from}: {detail}"), EXAMPLE_MAX);
        let mut counts = self.counts();
        let counted = counts.entry(reason).or_insert(Counted { count: 0, last: String::new() });
        counted.count += 1;
        counted.last = last;
    }

    /// Tells what was refused, once a minute, until `stop` is cancelled.
    pub(crate) async fn tell(self, stop: CancellationToken) {
        loop {
            // Cancel-safe: what is counted stays.
            let is_over = tokio::select! {
                () = tokio::time::sleep(EVERY) => false,
                () = stop.cancelled() => true,
            };
            if let Some(summary) = self.summary() {
                tracing::info!(refused = summary, "some were not let in");
            }
            if is_over {
                return;
            }
        }
    }

    /// One line for all that was counted, and counts anew.
    fn summary(&self) -> Option<String> {
        let counts = std::mem::take(&mut *self.counts());
        let told = counts.into_iter().map(|(reason, Counted { count, last })| {
            format!("{count} {}, last {last}", reason.words())
        });
        let told: Vec<String> = told.collect();
        (!told.is_empty()).then(|| told.join("; "))
    }

    fn counts(&self) -> MutexGuard<'_, BTreeMap<Reason, Counted>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fourteen_thousand_handshakes_that_fail_are_one_line() {
        let refusals = Refusals::default();
        assert_eq!(refusals.summary(), None);
        for number in 0..14_400_u32 {
            let from = IpAddr::from(number.to_be_bytes());
            refusals.note(Reason::Handshake, Some(from), &"received corrupt message\u{1b}[2J");
        }
        refusals.note(Reason::Join, None, &"x".repeat(1000));
        let summary = refusals.summary().unwrap();
        assert!(summary.starts_with("14400 TLS handshakes, last 0.0.56.63: received corrupt"));
        assert!(summary.contains("; 1 joins, last this host: xxx"), "{summary}");
        assert!(summary.len() < 500 && !summary.contains('\u{1b}'), "{summary:?}");
        assert_eq!(refusals.summary(), None);
    }
}
