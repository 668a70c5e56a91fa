//! Which benchmarks run, and what comes of them: one that fails stops no other.

use std::cell::RefCell;

use anyhow::Result;

use super::Report;

/// What is wanted, where reports go, and what has failed.
pub(super) struct Runner<'a> {
    names: &'a [String],
    done: &'a dyn Fn(&[Report]) -> Result<()>,
    failed: RefCell<Vec<String>>,
}

impl<'a> Runner<'a> {
    /// Of these benchmarks, or of all if none is named.
    pub(super) fn new(names: &'a [String], done: &'a dyn Fn(&[Report]) -> Result<()>) -> Self {
        Self { names, done, failed: RefCell::default() }
    }

    pub(super) fn wants(&self, name: &str) -> bool {
        self.names.is_empty() || self.names.iter().any(|one| one == name)
    }

    pub(super) fn wants_any(&self, names: &[&str]) -> bool {
        names.iter().any(|name| self.wants(name))
    }

    /// Runs a benchmark, if it is wanted.
    pub(super) async fn take<const N: usize>(
        &self,
        name: &str,
        measure: impl Future<Output = Result<[Report; N]>>,
    ) {
        if self.wants(name) {
            let taken = measure.await.and_then(|reports| (self.done)(&reports));
            self.note(&[name], taken);
        }
    }

    /// Notes how something ended that these benchmarks need.
    #[expect(clippy::print_stdout, reason = "it belongs to the table")]
    pub(super) fn note(&self, names: &[&str], ended: Result<()>) {
        let Err(error) = ended else { return };
        for name in names.iter().filter(|name| self.wants(name)) {
            println!("{name:32} failed: {error:#}");
            self.failed.borrow_mut().push((*name).to_owned());
        }
    }

    /// The benchmarks that failed.
    pub(super) fn into_failed(self) -> Vec<String> {
        self.failed.into_inner()
    }
}

#[cfg(test)]
mod tests {
    use anyhow::bail;

    use super::super::report;
    use super::*;

    #[tokio::test]
    async fn a_benchmark_that_fails_stops_no_other_and_is_named_in_the_end() {
        let seen = RefCell::new(Vec::new());
        let done = |reports: &[Report]| -> Result<()> {
            seen.borrow_mut().extend(reports.iter().map(|report| report.name));
            Ok(())
        };
        let runner = Runner::new(&[], &done);
        runner.take::<1>("first", async { bail!("the engine hangs") }).await;
        runner.take("second", async { Ok([report::alone("second", "s", vec![1.0], 2.0)]) }).await;
        assert_eq!(runner.into_failed(), ["first"]);
        assert_eq!(*seen.borrow(), ["second"]);
    }
}
