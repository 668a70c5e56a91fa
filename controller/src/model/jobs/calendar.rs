//! From a schedule to moments: when it is due, by the clock on the wall of its place.
//!
//! Pure: the time zones are those that the program brings along, so what is due when does not depend on its host.
//!
//! Twice a year such a clock leaves times out, or shows them twice. Which hours an expression names decides what that means:
//!
//! - it names hours (`30 2 * * *`): it is due once for each time it names. One that is left out is due when the clock has gone on
//!   (03:00), one that is shown twice is due when it is shown first;
//! - it names none (`*/10 * * * *`): it is due whenever the clock shows such a time, so also in both hours of the same name.

use std::fmt;

use cronexpr::{Crontab, FallbackTimezoneOption, MakeTimestamp, ParseOptions};
use dwell_core::clock::Timestamp;
use dwell_core::job::Schedule;
use dwell_core::workload::SpecError;
use jiff::SignedDuration;
use jiff::civil::DateTime;
use jiff::tz::{AmbiguousOffset, TimeZone, TimeZoneDatabase};

/// How many times that the clock shows again are passed over at most: all minutes of a day.
const AGAIN_MAX: usize = 24 * 60;
/// How many changes of its clock are looked beyond for a time: those of a few years.
const CHANGES_MAX: usize = 16;

/// A schedule that can be asked for times.
#[derive(Clone, Debug)]
pub(in crate::model) struct Calendar {
    /// The expression, for times without a place.
    times: Crontab,
    zone: TimeZone,
    names_hours: bool,
}

impl Calendar {
    /// Reads a schedule.
    ///
    /// # Errors
    /// [`SpecError`] if nothing is ever due by it, or if it is not known what its words mean.
    pub(in crate::model) fn of(schedule: &Schedule) -> Result<Self, SpecError> {
        let mut options = ParseOptions::default();
        options.fallback_timezone_option = FallbackTimezoneOption::UTC;
        let cron = &schedule.cron;
        let times = cronexpr::parse_crontab_with(cron, options).map_err(|error| {
            let error = error.to_string();
            let reason = error.lines().last().unwrap_or_default().trim().trim_start_matches("^ ");
            wrong("cron", format!("{cron:?}: {reason}"))
        })?;
        let name = &schedule.time_zone;
        let zone = TimeZoneDatabase::bundled().get(name).map_err(|_| {
            let hint = "write UTC, or a name of the time zone database such as Europe/Berlin";
            wrong("time_zone", format!("{name:?} is not known; {hint}"))
        })?;
        let hours = cron.split_ascii_whitespace().nth(1).unwrap_or_default();
        let calendar = Self { times, zone, names_hours: !hours.starts_with('*') };
        // Years after the one that begins the epoch are all alike.
        match calendar.after(Timestamp(0)) {
            Some(_) => Ok(calendar),
            None => Err(wrong(
                "cron",
                format!("{cron:?} is never due: no year has such a day; name one that there is"),
            )),
        }
    }

    /// The first due time after a moment.
    pub(in crate::model) fn after(&self, moment: Timestamp) -> Option<Timestamp> {
        let moment = to_jiff(moment)?;
        let due = if self.names_hours { self.by_name(moment) } else { self.by_clock(moment) };
        due.and_then(from_jiff)
    }

    /// The last due time after `from`, up to and with `to`.
    pub(in crate::model) fn last(&self, from: Timestamp, to: Timestamp) -> Option<Timestamp> {
        let is_due_after = |moment| self.after(moment).filter(|due| *due <= to);
        let mut last = is_due_after(from)?;
        // Up to a certain moment something is due after it, from then on nothing: halving finds that.
        let mut end = to.0;
        while last.0 < end {
            let middle = last.0 + (end - last.0) / 2;
            match is_due_after(Timestamp(middle)) {
                Some(due) => last = due,
                None => end = middle,
            }
        }
        Some(last)
    }

    /// A moment as the clock of the place shows it.
    pub(in crate::model) fn show(&self, moment: Timestamp) -> impl fmt::Display + use<> {
        let shown = to_jiff(moment).map(|moment| {
            let zoned = moment.to_zoned(self.zone.clone());
            zoned.strftime("%Y-%m-%d %H:%M %Z").to_string()
        });
        shown.unwrap_or_else(|| moment.to_string())
    }

    /// Each time that is named, once.
    fn by_name(&self, moment: jiff::Timestamp) -> Option<jiff::Timestamp> {
        let mut shown = self.zone.to_datetime(moment);
        for _ in 0..AGAIN_MAX {
            shown = self.next(shown)?;
            let due = self.once(shown)?;
            if due > moment {
                return Some(due);
            }
        }
        None
    }

    /// When a time is due that the clock shows once, twice, or not at all.
    fn once(&self, shown: DateTime) -> Option<jiff::Timestamp> {
        let ambiguous = self.zone.to_ambiguous_timestamp(shown);
        match ambiguous.offset() {
            // When the clock went on: the change that follows what the clock would have shown by then.
            AmbiguousOffset::Gap { after, .. } => {
                let before = after.to_timestamp(shown).ok()?;
                self.zone.following(before).next().map(|change| change.timestamp())
            }
            _ => ambiguous.compatible().ok(),
        }
    }

    /// Whatever the clock shows, for as long as it goes at one pace.
    fn by_clock(&self, moment: jiff::Timestamp) -> Option<jiff::Timestamp> {
        let mut offset = self.zone.to_offset(moment);
        let (mut since, mut shown) = (moment, offset.to_datetime(moment));
        for _ in 0..CHANGES_MAX {
            let change = self.zone.following(since).next().map(|change| change.timestamp());
            let due = offset.to_timestamp(self.next(shown)?).ok()?;
            let Some(change) = change.filter(|change| *change <= due) else { return Some(due) };
            offset = self.zone.to_offset(change);
            // What it shows at that very moment counts as well.
            let before = SignedDuration::from_nanos(1);
            (since, shown) = (change, offset.to_datetime(change).checked_sub(before).ok()?);
        }
        None
    }

    /// The next time of the expression, wherever that is.
    fn next(&self, shown: DateTime) -> Option<DateTime> {
        let here = shown.to_zoned(TimeZone::UTC).ok()?.timestamp();
        let here = MakeTimestamp::from_nanosecond(here.as_nanosecond()).ok()?;
        Some(self.times.find_next(here).ok()?.datetime())
    }
}

fn wrong(field: &str, problem: String) -> SpecError {
    SpecError { field: format!("job.schedule.{field}"), problem }
}

fn to_jiff(moment: Timestamp) -> Option<jiff::Timestamp> {
    jiff::Timestamp::from_millisecond(i64::try_from(moment.0).ok()?).ok()
}

fn from_jiff(moment: jiff::Timestamp) -> Option<Timestamp> {
    u64::try_from(moment.as_millisecond()).ok().map(Timestamp)
}

#[cfg(test)]
mod tests;
