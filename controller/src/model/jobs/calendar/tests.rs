use super::*;

fn at(text: &str) -> Timestamp {
    from_jiff(text.parse().unwrap()).unwrap()
}

fn berlin(cron: &str) -> Calendar {
    Calendar::of(&Schedule { time_zone: "Europe/Berlin".into(), ..Schedule::of(cron) }).unwrap()
}

/// The due times after a moment, as the clock shows them.
fn shown(calendar: &Calendar, after: &str, count: usize) -> Vec<String> {
    let mut moment = at(after);
    let next = std::iter::from_fn(|| {
        moment = calendar.after(moment)?;
        Some(calendar.show(moment).to_string())
    });
    next.take(count).collect()
}

#[test]
fn a_time_that_the_clock_leaves_out_is_due_right_after_it() {
    let nightly = berlin("30 2 * * *");
    let days = shown(&nightly, "2026-03-28T00:00:00Z", 3);
    assert_eq!(days, ["2026-03-28 02:30 CET", "2026-03-29 03:00 CEST", "2026-03-30 02:30 CEST"]);
    // Two that were left out are due together, and that once.
    let twice = berlin("0,30 2,3 * * *");
    let days = shown(&twice, "2026-03-29T00:00:00Z", 3);
    assert_eq!(days, ["2026-03-29 03:00 CEST", "2026-03-29 03:30 CEST", "2026-03-30 02:00 CEST"]);
}

#[test]
fn a_time_that_the_clock_shows_twice_is_due_once() {
    let nightly = berlin("30 2 * * *");
    let days = shown(&nightly, "2026-10-24T12:00:00Z", 2);
    assert_eq!(days, ["2026-10-25 02:30 CEST", "2026-10-26 02:30 CET"]);
    // Also for whoever looks in the second of the two hours.
    assert_eq!(shown(&nightly, "2026-10-25T01:10:00Z", 1), ["2026-10-26 02:30 CET"]);
}

#[test]
fn what_names_no_hour_is_due_by_the_clock() {
    let often = berlin("*/30 * * * *");
    let spring = shown(&often, "2026-03-29T00:15:00Z", 3);
    assert_eq!(spring, ["2026-03-29 01:30 CET", "2026-03-29 03:00 CEST", "2026-03-29 03:30 CEST"]);
    let autumn = shown(&often, "2026-10-25T00:15:00Z", 4);
    assert_eq!(
        autumn,
        [
            "2026-10-25 02:30 CEST",
            "2026-10-25 02:00 CET",
            "2026-10-25 02:30 CET",
            "2026-10-25 03:00 CET"
        ]
    );
}

#[test]
fn the_last_of_many_is_found_without_counting_them() {
    let often = berlin("* * * * *");
    let last = often.last(at("2020-01-01T00:00:00Z"), at("2026-03-29T01:00:30Z"));
    assert_eq!(last, Some(at("2026-03-29T01:00:00Z")));
    let rare = berlin("0 0 29 2 *");
    let last = rare.last(at("2020-03-01T00:00:00Z"), at("2026-01-01T00:00:00Z"));
    assert_eq!(last, Some(at("2024-02-28T23:00:00Z")));
    assert_eq!(rare.last(at("2024-02-28T23:00:00Z"), at("2026-01-01T00:00:00Z")), None);
    let nightly = berlin("30 2 * * *");
    for (to, last) in [
        ("2026-03-29T00:59:59Z", "2026-03-28T01:30:00Z"),
        ("2026-03-29T01:00:00Z", "2026-03-29T01:00:00Z"),
    ] {
        assert_eq!(nightly.last(at("2026-03-01T00:00:00Z"), at(to)), Some(at(last)), "{to}");
    }
}

#[test]
fn what_has_no_meaning_is_refused_with_the_reason() {
    let refused = |cron: &str, zone: &str| {
        let schedule = Schedule { time_zone: zone.into(), ..Schedule::of(cron) };
        Calendar::of(&schedule).unwrap_err().to_string()
    };
    for (cron, zone, says) in [
        ("0 0 30 2 *", "UTC", "job.schedule.cron: \"0 0 30 2 *\" is never due"),
        ("60 0 * * *", "UTC", "job.schedule.cron: \"60 0 * * *\": "),
        ("x 0 * * *", "UTC", "job.schedule.cron: \"x 0 * * *\": "),
        ("0 0 * * *", "Europe/Berlni", "job.schedule.time_zone: \"Europe/Berlni\" is not known"),
    ] {
        let error = refused(cron, zone);
        assert!(error.starts_with(says) && !error.contains('\n'), "{error}");
    }
}

#[test]
fn a_day_of_the_month_and_one_of_the_week_are_both_meant() {
    let calendar = Calendar::of(&Schedule::of("0 0 13 * FRI")).unwrap();
    let days = shown(&calendar, "2026-11-09T12:00:00Z", 2);
    assert_eq!(days, ["2026-11-13 00:00 UTC", "2026-11-20 00:00 UTC"]);
    assert_eq!(calendar.after(at("2026-11-13T00:00:00Z")), Some(at("2026-11-20T00:00:00Z")));
}
