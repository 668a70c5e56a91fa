//! What matches what.

use std::net::IpAddr;

use proptest::prelude::*;

use super::{AddressList, Target, wildcard};

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

#[test]
fn lists_of_addresses() {
    let cases = [
        ("192.0.2.1", "192.0.2.1", true),
        ("192.0.2.1", "192.0.2.10", false),
        ("192.0.2.*", "192.0.2.10", true),
        ("192.0.2.?", "192.0.2.10", false),
        ("192.0.2.0/24", "192.0.2.10", true),
        ("192.0.2.0/24", "::ffff:192.0.2.10", true),
        ("2001:db8::/32", "2001:db8::1", true),
        ("2001:db8::/32", "192.0.2.1", false),
        ("*,!192.0.2.1", "192.0.2.1", false),
        ("!192.0.2.1,*", "192.0.2.1", false),
        ("*,!192.0.2.1", "192.0.2.2", true),
        ("!192.0.2.1", "192.0.2.2", false),
        ("laptop.example", "192.0.2.1", false),
    ];
    for (list, client, matches) in cases {
        let read = AddressList::patterns(list).expect(list);
        assert_eq!(read.matches(address(client)), matches, "{list} {client}");
    }
}

#[test]
fn what_cannot_be_enforced_is_refused() {
    for list in ["10.0.0.1/8", "*,!10.0.0.1/8", "*,!evil.example", "*,!dead.beef", "a/b", ""] {
        assert!(AddressList::patterns(list).is_none(), "{list}");
    }
    assert!(AddressList::patterns("*,!fe80:*,!10.*").is_some());
}

#[test]
fn certificates_take_networks_alone() {
    assert!(AddressList::networks("192.0.2.0/24,2001:db8::1").is_some());
    for list in ["192.0.2.*", "!192.0.2.1", "", "192.0.2.1,", "192.0.2.1/24", "a b"] {
        assert!(AddressList::networks(list).is_none(), "{list}");
    }
}

#[test]
fn targets() {
    for text in ["db", "db:", "db:0", ":80", "::1:80", "[::1:80", "a b:80", "db:x"] {
        assert!(Target::with_host(text).is_none(), "{text}");
    }
    assert!(Target::with_host("*:*").is_some_and(|target| target.matches("any", 1)));
    assert!(Target::host_optional("80").is_some_and(|target| target.matches("any", 80)));
}

/// The plain definition.
fn defined(pattern: &[u8], text: &[u8]) -> bool {
    match (pattern.split_first(), text.split_first()) {
        (None, None) => true,
        (Some((b'*', rest)), None) => defined(rest, text),
        (Some((b'*', rest)), Some((_, tail))) => defined(rest, text) || defined(pattern, tail),
        (Some((p, rest)), Some((t, tail))) => (*p == b'?' || p == t) && defined(rest, tail),
        _ => false,
    }
}

proptest! {
    #[test]
    fn wildcards_do_what_is_defined(pattern in "[ab*?]{0,8}", text in "[ab]{0,10}") {
        prop_assert_eq!(
            wildcard(pattern.as_bytes(), text.as_bytes()),
            defined(pattern.as_bytes(), text.as_bytes())
        );
    }

    #[test]
    fn any_list(text in any::<String>(), client in any::<u32>()) {
        if let Some(list) = AddressList::patterns(&text) {
            list.matches(IpAddr::V4(client.into()));
        }
    }
}
