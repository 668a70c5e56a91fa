//! What people read: help and errors.

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};

use super::Dwell;

#[test]
fn arguments_are_consistent() {
    Dwell::command().debug_assert();
}

/// The long help of every command, so that a change of it is seen.
#[test]
fn help() {
    fn all(command: &mut clap::Command, path: &str, text: &mut String) {
        let path = format!("{path}{}", command.get_name());
        // Width is that of a terminal unknown.
        text.push_str(&format!("### {path}\n{}\n", command.render_long_help()));
        for subcommand in command.get_subcommands_mut() {
            all(subcommand, &format!("{path} "), text);
        }
    }
    let mut command = Dwell::command().term_width(100).disable_help_subcommand(true);
    command.build();
    let mut text = String::new();
    all(&mut command, "", &mut text);
    insta::assert_snapshot!(text);
}

/// What people try first either works or is answered in its own words, never with a tip that leads astray.
#[test]
fn no_tip_leads_astray() {
    let parse = |line: &str| Dwell::try_parse_from(line.split(' '));
    for works in
        ["dwell events --since 5m", "dwell ps -a", "dwell ps -q", "dwell logs --tail all web-0"]
    {
        assert!(parse(works).is_ok(), "{works}");
    }
    assert_eq!(parse("dwell help").unwrap_err().kind(), ErrorKind::DisplayHelp);
    let negative = parse("dwell logs --tail -5 web-0").unwrap_err().to_string();
    assert!(negative.contains("write a number of lines such as 100, or all"), "{negative}");
    assert!(!negative.contains("-- -5"), "{negative}");
}
