//! Lines as people write them, and lines as nobody should.

use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use proptest::prelude::*;

use super::{AuthorizedKey, Forced, KeyOptions, LineError, MAX_LINE, parse_line};

const KEY: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIMPzRRtva+K6tgQylLhUl06jRoNbffTAIWHayKqDaMY5 alice@laptop";
/// RSA with 1024 bits.
const WEAK: &str = "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAgQCxBB6leYncpZ3nZlHOOTSl01pvYNjeoeo0NMWB7CdVmyhpvPhbQj0SAFtoAq4K/PMPZpr62eAbrlyzL2nw2KCLTBZ407Ryp0MeUpYnysDTXdmoFa6r5nqlbKIiNCsFZMA3Fody+YZF27CEFIJmuWYE2Dvr06QBMMouvMTzo6k3ew== weak";

fn read(options: &str) -> Result<KeyOptions, LineError> {
    let line = parse_line(&format!("{options} {KEY}"))?;
    Ok(line.expect("a key").options)
}

#[test]
fn a_plain_key_may_do_everything() {
    let AuthorizedKey { key, options } = parse_line(KEY).unwrap().unwrap();
    assert_eq!(key.comment().as_str_lossy(), "alice@laptop");
    assert_eq!(options, KeyOptions::default());
    assert!(options.terminal && options.forwarding && options.agent && !options.authority);
}

#[test]
fn comments_and_empty_lines_are_nothing() {
    for line in ["", "   ", "# a note", "  # another"] {
        assert_eq!(parse_line(line), Ok(None), "{line:?}");
    }
}

#[test]
fn options_take_away() {
    type May = [bool; 3];
    let cases: [(&str, May); 8] = [
        ("restrict", [false, false, false]),
        ("restrict,pty", [true, false, false]),
        ("restrict,port-forwarding,agent-forwarding", [false, true, true]),
        ("no-pty", [false, true, true]),
        ("NO-PORT-FORWARDING", [true, false, true]),
        ("no-agent-forwarding,no-x11-forwarding,no-user-rc", [true, true, false]),
        ("pty,restrict", [false, false, false]),
        ("environment=\"A=b\"", [true, true, true]),
    ];
    for (text, may) in cases {
        let options = read(text).unwrap();
        assert_eq!([options.terminal, options.forwarding, options.agent], may, "{text}");
    }
}

#[test]
fn values_are_quoted_as_sshd_does() {
    let options = read(r#"command="echo \"a, b\" \n #",from="10.0.0.0/8,!10.0.0.1""#).unwrap();
    assert_eq!(options.command, Some(Forced::Command(r#"echo "a, b" \n #"#.to_owned())));
    let applies =
        |from: &str| options.applies(from.parse::<IpAddr>().unwrap(), SystemTime::UNIX_EPOCH);
    assert!(applies("10.0.0.2"));
    assert!(!applies("10.0.0.1"));
    assert!(!applies("192.0.2.1"));
}

#[test]
fn expiry() {
    let from = IpAddr::from([192, 0, 2, 1]);
    for text in ["20300102", "20300102Z", "203001020000", "203001020000Z", "20300102000000"] {
        let options = read(&format!("expiry-time=\"{text}\"")).unwrap();
        // 2030-01-02T00:00:00Z.
        let end = SystemTime::UNIX_EPOCH + Duration::from_secs(1_893_542_400);
        assert!(options.applies(from, end - Duration::from_secs(1)), "{text}");
        assert!(!options.applies(from, end), "{text}");
    }
}

#[test]
fn targets() {
    let options = read(r#"permitopen="db:5432",permitopen="[::1]:*",permitlisten="8080""#).unwrap();
    let opens = |host: &str, port| {
        options.open.as_ref().unwrap().iter().any(|target| target.matches(host, port))
    };
    assert!(opens("DB", 5432) && opens("::1", 1));
    assert!(!opens("db", 5433) && !opens("other", 5432));
    assert!(options.listen.as_ref().unwrap()[0].matches("localhost", 8080));
}

#[test]
fn authorities() {
    let options = read(r#"cert-authority,principals="ops,deploy""#).unwrap();
    assert!(options.authority);
    assert_eq!(options.principals, Some(vec!["ops".to_owned(), "deploy".to_owned()]));
}

#[test]
fn what_is_not_understood_gives_nothing() {
    let unknown = |name: &str| LineError::Unknown(name.to_owned());
    let cases = [
        ("verify-required", unknown("verify-required")),
        ("restrict,tunnel=\"0\"", unknown("tunnel")),
        ("no-pty=\"yes\"", unknown("no-pty")),
        ("command", unknown("command")),
        ("command=ls", LineError::Unknown("command".to_owned())),
        ("command=\"ls", LineError::Syntax),
        ("command=\"a\"b", LineError::Syntax),
        ("command=\"a\",command=\"b\"", LineError::Value("command")),
        ("from=\"10.0.0.1/8\"", LineError::Value("from")),
        ("from=\"10.0.0.1,,10.0.0.2\"", LineError::Value("from")),
        ("principals=\"\"", LineError::Value("principals")),
        ("expiry-time=\"20301301\"", LineError::Value("expiry-time")),
        ("expiry-time=\"never\"", LineError::Value("expiry-time")),
        ("permitopen=\"5432\"", LineError::Value("permitopen")),
        ("permitopen=\"db:70000\"", LineError::Value("permitopen")),
        ("", LineError::Key),
    ];
    for (options, error) in cases {
        let line = format!("{options} ssh-ed25519");
        let line = if options.is_empty() { line } else { format!("{options} {KEY}") };
        assert_eq!(parse_line(&line), Err(error), "{line}");
    }
}

#[test]
fn weak_and_foreign_keys_are_refused() {
    assert_eq!(parse_line(WEAK), Err(LineError::Weak));
    assert_eq!(parse_line("ssh-ed25519 AAAA"), Err(LineError::Key));
    assert_eq!(parse_line("alice"), Err(LineError::Key));
    assert_eq!(parse_line(&"x".repeat(MAX_LINE + 1)), Err(LineError::TooLong));
}

proptest! {
    /// No bytes make it panic, and with options before a key it never gives more than the key alone.
    #[test]
    fn any_options(options in "[-a-z=\", \\\\!0-9*.:/]{0,80}") {
        if let Ok(Some(line)) = parse_line(&format!("{options} {KEY}")) {
            prop_assert_eq!(line.key.comment().as_str_lossy(), "alice@laptop");
        }
    }

    #[test]
    fn any_text(text in any::<String>()) {
        drop(parse_line(&text));
    }

    /// A command comes out as it was quoted.
    #[test]
    fn commands(command in "[^\u{0}\r\n\\\\]{1,60}") {
        let options = read(&format!("command=\"{}\"", command.replace('"', "\\\"")));
        prop_assert_eq!(options.unwrap().command, Some(Forced::Command(command)));
    }
}
