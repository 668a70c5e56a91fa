use proptest::prelude::*;

use super::*;

#[test]
fn processors() {
    for (text, value) in [("2", 2000), ("0.5", 500), ("500m", 500), ("1.2345", 1234), ("0", 0)] {
        assert_eq!(text.parse::<Millicores>().unwrap().0, value, "{text}");
    }
    for text in
        ["", "-1", "NaN", "inf", "1e3", "m", ".5", "5.", "1,5", "99999999999999999999", "+1m"]
    {
        assert!(text.parse::<Millicores>().is_err(), "{text}");
    }
}

#[test]
fn memory() {
    for (text, value) in [
        ("256Mi", 256 << 20),
        ("256m", 256 << 20),
        ("1gb", 1 << 30),
        ("17", 17),
        ("1K", 1024),
        ("1.5G", 3 << 29),
        ("0.25Ki", 256),
    ] {
        assert_eq!(text.parse::<Bytes>().unwrap().0, value, "{text}");
    }
    for text in [
        "",
        "-1",
        "1.5",
        "0.3Ki",
        "1.",
        ".5Gi",
        "1.5.5Gi",
        "1.0000000001Gi",
        "1 Gi",
        "1Pi",
        "Mi",
        "18446744073709551616",
        "17179869184Gi",
    ] {
        assert!(text.parse::<Bytes>().is_err(), "{text}");
    }
}

#[test]
fn durations() {
    for (text, value) in [
        ("500ms", 500),
        ("30s", 30_000),
        ("1m30s", 90_000),
        ("2h", 7_200_000),
        ("1.5s", 1500),
        ("30d", 2_592_000_000),
    ] {
        assert_eq!(text.parse::<Millis>().unwrap().0, value, "{text}");
    }
    for text in [
        "",
        "5",
        "s",
        "-1s",
        "1w",
        "1.5ms",
        ".5s",
        "1.s",
        "1.2.3s",
        "99999999999999h",
        "1s ",
        &"1s".repeat(100),
    ] {
        assert!(text.parse::<Millis>().is_err(), "{text}");
    }
}

#[test]
fn errors_are_bounded_and_helpful() {
    let error = "x".repeat(1_000_000).parse::<Bytes>().unwrap_err().to_string();
    assert!(error.len() < 200 && error.contains("256Mi"), "{error}");
}

#[test]
fn numbers_are_taken_where_the_unit_is_clear() {
    assert_eq!(serde_json::from_str::<Millicores>("0.5").unwrap(), Millicores(500));
    assert_eq!(serde_json::from_str::<Bytes>("1024").unwrap(), Bytes(1024));
    assert!(serde_json::from_str::<Millicores>("-2").is_err());
    assert!(serde_json::from_str::<Millis>("30").is_err());
}

proptest! {
    #[test]
    fn shown_is_read_back(value in 0..1_000_000_000_u64) {
        prop_assert_eq!(Millicores(value).to_string().parse::<Millicores>().unwrap().0, value);
        prop_assert_eq!(Bytes(value).to_string().parse::<Bytes>().unwrap().0, value);
        prop_assert_eq!(Millis(value).to_string().parse::<Millis>().unwrap().0, value);
    }
}
