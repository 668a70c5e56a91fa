//! What people read: help and errors.

use clap::CommandFactory;

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
