//! Sizes for people.

/// A size in the largest unit of which there is one, such as `93.4 MiB`.
pub(crate) fn size(bytes: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let Some(nth) = units.iter().enumerate().rev().find(|(nth, _)| bytes >> (10 * (nth + 1)) > 0)
    else {
        return format!("{bytes} B");
    };
    let (nth, unit) = nth;
    let whole = bytes >> (10 * (nth + 1));
    // The first digit behind the point, cut and not rounded: 1023.96 MiB are not 1024.
    let tenth = ((bytes >> (10 * nth)) % 1024) * 10 / 1024;
    format!("{whole}.{tenth} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_in_their_largest_unit() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            ((1 << 30) - 1, "1023.9 MiB"),
            (u64::MAX, "15.9 EiB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }
}
