use proptest::prelude::*;

use super::*;

#[test]
fn good_names() {
    for name in ["a", "web", "web-0", "0", &"x".repeat(63)] {
        assert_eq!(NodeName::new(name).unwrap().as_str(), name);
    }
}

#[test]
fn bad_names_say_what_is_wrong() {
    for (name, says) in [
        ("", "empty"),
        ("Web", "'W' at byte 0"),
        ("../etc", "'.' at byte 0"),
        ("/etc", "'/' at byte 0"),
        ("a\0b", "'\\0' at byte 1"),
        ("a\nb", "'\\n' at byte 1"),
        ("-a", "'-' at byte 0"),
        ("a-", "'-' at byte 1"),
        ("a_b", "'_' at byte 1"),
        ("My_Web", "ending with a letter or digit, such as my-web"),
        ("w\u{202e}eb", "'\\u{202e}' at byte 1"),
        ("wеb", "at byte 1"), // a Cyrillic letter that looks like an e
        (&"x".repeat(64), "64 bytes is too long"),
    ] {
        let error = NodeName::new(name).unwrap_err().to_string();
        assert!(error.contains(says), "{name:?}: {error}");
        assert!(!error.contains('\0') && !error.contains('\n'), "unescaped: {error:?}");
    }
}

#[test]
fn a_volume_may_be_named_as_in_a_compose_file() {
    assert_eq!(VolumeName::new("pg_data").unwrap().as_str(), "pg_data");
    for wrong in ["_data", "data_", "a/b", "A_b"] {
        assert!(VolumeName::new(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn instance_names_have_one_spelling() {
    let name: InstanceName = "my-web-12".parse().unwrap();
    assert_eq!((name.workload().as_str(), name.ordinal()), ("my-web", 12));
    assert_eq!(name.to_string(), "my-web-12");
    for wrong in ["web", "web-", "-1", "web-01", "web-1a", "web-100000", "web-99999999999", ""] {
        assert!(wrong.parse::<InstanceName>().is_err(), "{wrong:?}");
    }
}

#[test]
fn names_are_checked_when_read() {
    assert!(serde_json::from_str::<WorkloadName>("\"web\"").is_ok());
    assert!(serde_json::from_str::<WorkloadName>("\"../web\"").is_err());
    assert!(serde_json::from_str::<InstanceName>("\"web-0\"").is_ok());
}

proptest! {
    #[test]
    fn instance_names_survive_the_round_trip(workload in "[a-z]([a-z0-9-]{0,50}[a-z0-9])?", ordinal in 0..=ORDINAL_MAX) {
        let name = InstanceName::new(WorkloadName::new(workload).unwrap(), ordinal);
        prop_assert!(name.to_string().len() <= LABEL_MAX);
        prop_assert_eq!(name.to_string().parse::<InstanceName>().unwrap(), name);
    }

    #[test]
    fn any_text_is_a_label_or_an_error(text in "\\PC{0,80}") {
        if let Ok(name) = NodeName::new(text.clone()) {
            prop_assert!(name.as_str().bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'));
        }
    }
}
