//! A join token, as somebody pastes it.
#![no_main]

use dwell_proto::trust::JoinToken;

libfuzzer_sys::fuzz_target!(|text: &str| {
    if let Ok(token) = text.parse::<JoinToken>() {
        let again: JoinToken = token.to_string().parse().expect("a token that was shown");
        assert_eq!(again.secret(), token.secret());
    }
});
