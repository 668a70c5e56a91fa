//! What came of a benchmark: medians, their ratio, and whether the goal is met.

use std::{fmt, fs, path::Path, time::Duration};

use anyhow::{Context, Result};
use serde::Serialize;

/// A finished benchmark, as written to its file.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Its name.
    pub name: &'static str,
    /// Of `ours` and `other`.
    pub unit: &'static str,
    /// Median of dwell's runs.
    pub ours: f64,
    /// Median of the alternative's; absent where the goal is absolute.
    pub other: Option<f64>,
    /// `ours / other`.
    pub ratio: Option<f64>,
    /// Which direction is better.
    pub better: &'static str,
    /// Runs that count, on each side.
    pub runs: usize,
    /// For the ratio, or for `ours` where there is none.
    pub goal: f64,
    /// Whether it is reached.
    pub met: bool,
    /// The least and the most of dwell's runs.
    pub ours_range: [f64; 2],
    /// The least and the most of the alternative's.
    pub other_range: Option<[f64; 2]>,
    /// The 99th percentile of dwell's runs, where the goal has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p99: Option<f64>,
    /// What the alternative is, where a benchmark has several; what is measured, where it measures several things.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub against: Option<&'static str>,
}

/// Writes the entries of one benchmark into `dir` as `NAME.json`: an object, or a list where there are several.
///
/// # Errors
/// If the file cannot be written.
pub fn write(entries: &[Report], dir: &Path) -> Result<()> {
    let Some(first) = entries.first() else { return Ok(()) };
    let path = dir.join(format!("{}.json", first.name));
    let text = match entries {
        [only] => serde_json::to_vec_pretty(only)?,
        several => serde_json::to_vec_pretty(several)?,
    };
    fs::create_dir_all(dir)
        .and_then(|()| fs::write(&path, text))
        .with_context(|| format!("cannot write {}", path.display()))
}

impl Report {
    /// The heads of the columns that [`Report`]'s display fills.
    #[must_use]
    pub fn heads() -> String {
        format!(
            "{:32} {:>28} {:>28} {:>7} {:>6}  {}",
            "benchmark", "dwell (least..most)", "other (least..most)", "ratio", "goal", "met"
        )
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let side = |median: f64, [least, most]: [f64; 2]| {
            format!("{median:.3} ({least:.3}..{most:.3}) {}", self.unit)
        };
        let other = self.other.zip(self.other_range).map(|(median, range)| side(median, range));
        let ratio = self.ratio.map(|ratio| format!("{ratio:.2}"));
        write!(
            f,
            "{:32} {:>28} {:>28} {:>7} {:>6}  {}",
            self.against.map_or_else(
                || self.name.to_owned(),
                |against| format!("{} ({against})", self.name)
            ),
            side(self.ours, self.ours_range),
            other.as_deref().unwrap_or("-"),
            ratio.as_deref().unwrap_or("-"),
            self.goal,
            if self.met { "yes" } else { "no" }
        )
    }
}

/// Times of both sides, taken in turns.
#[derive(Debug, Default)]
pub(super) struct Samples {
    ours: Vec<f64>,
    other: Vec<f64>,
}

impl Samples {
    /// Adds a turn; turn 0 is for warming up and does not count.
    pub(super) fn add(&mut self, turn: usize, ours: Duration, other: Duration) {
        if turn > 0 {
            self.ours.push(ours.as_secs_f64());
            self.other.push(other.as_secs_f64());
        }
    }

    /// Adds a turn of anything but times, likewise.
    pub(super) fn add_values(&mut self, turn: usize, ours: f64, other: f64) {
        if turn > 0 {
            self.ours.push(ours);
            self.other.push(other);
        }
    }

    /// The comparison of rates in `unit`; the goal is for the ratio of the medians, the higher the better.
    pub(super) fn rates(self, name: &'static str, unit: &'static str, goal: f64) -> Report {
        let report = self.report(name, goal);
        let met = report.ratio.is_some_and(|ratio| ratio >= goal);
        Report { unit, better: "higher", met, ..report }
    }

    /// The comparison of the medians, in seconds; the goal is for their ratio, the lower the better.
    pub(super) fn report(mut self, name: &'static str, goal: f64) -> Report {
        let (ours, ours_range) = median(&mut self.ours);
        let (other, other_range) = median(&mut self.other);
        let ratio = ours / other;
        Report {
            name,
            unit: "s",
            ours,
            other: Some(other),
            ratio: Some(ratio),
            better: "lower",
            runs: self.ours.len(),
            goal,
            met: ratio <= goal,
            ours_range,
            other_range: Some(other_range),
            p99: None,
            against: None,
        }
    }
}

/// The same, with a word for the alternative.
pub(super) fn against(mut report: Report, other: &'static str) -> Report {
    report.against = Some(other);
    report
}

/// A result without an alternative; the goal is for the value itself, the lower the better.
pub(super) fn alone(
    name: &'static str,
    unit: &'static str,
    mut samples: Vec<f64>,
    goal: f64,
) -> Report {
    let (ours, ours_range) = median(&mut samples);
    Report {
        name,
        unit,
        ours,
        other: None,
        ratio: None,
        better: "lower",
        runs: samples.len(),
        goal,
        met: ours <= goal,
        ours_range,
        other_range: None,
        p99: None,
        against: None,
    }
}

/// A result without an alternative; the goal is for the value itself, the higher the better.
pub(super) fn least(
    name: &'static str,
    unit: &'static str,
    samples: Vec<f64>,
    goal: f64,
) -> Report {
    let report = alone(name, unit, samples, goal);
    Report { better: "higher", met: report.ours >= goal, ..report }
}

/// What so many percent of the samples do not exceed.
pub(super) fn percentile(samples: &mut [f64], percent: usize) -> f64 {
    samples.sort_by(f64::total_cmp);
    let rank = (samples.len() * percent).div_ceil(100);
    samples.get(rank.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

/// The median, and the least and the most.
fn median(samples: &mut [f64]) -> (f64, [f64; 2]) {
    samples.sort_by(f64::total_cmp);
    match (samples.first(), samples.get(samples.len() / 2), samples.last()) {
        (Some(&least), Some(&median), Some(&most)) => (median, [least, most]),
        _ => (f64::NAN, [f64::NAN; 2]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_turn_warms_up_and_the_median_counts() {
        let mut samples = Samples::default();
        for (turn, ours) in [900, 1, 3, 2].into_iter().enumerate() {
            samples.add(turn, Duration::from_secs(ours), Duration::from_secs(4));
        }
        let report = samples.report("x", 0.5);
        assert_eq!((report.ours, report.other, report.runs), (2.0, Some(4.0), 3));
        assert_eq!((report.ratio, report.met), (Some(0.5), true));
        assert_eq!(report.ours_range, [1.0, 3.0]);
    }

    #[test]
    fn without_an_alternative_the_value_counts() {
        assert!(!alone("x", "MiB", vec![13.0], 12.0).met);
    }
}
