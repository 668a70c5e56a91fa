//! What process 1 of a container is.

use std::path::Path;

use dwell_core::workload::{Init, Template};

/// Shells, which wait for nobody but their own children.
const SHELLS: [&str; 6] = ["sh", "ash", "bash", "dash", "ksh", "zsh"];
/// What is there to do nothing, and does not even end when it is asked to.
const IDLE: [&str; 2] = ["sleep", "tail"];

/// Whether Docker's own init is put before the main process: if that is declared or, without a word, for what would leave behind
/// every process that nobody waits for.
pub(super) fn has_one(
    template: &Template,
    (entrypoint, command): &(Vec<String>, Vec<String>),
) -> bool {
    match template.process.init {
        Some(init) => init == Init::Engine,
        None => template.machine.is_some() || is_plain(&runs(template, entrypoint, command)),
    }
}

/// The words of the main process. An entry point that is declared takes the image's command away, as Docker has it.
fn runs<'a>(
    template: &'a Template,
    entrypoint: &'a [String],
    command: &'a [String],
) -> Vec<&'a str> {
    let declares = (!template.entrypoint.is_empty(), !template.command.is_empty());
    let (entrypoint, command) = match declares {
        (true, _) => (template.entrypoint.as_slice(), template.command.as_slice()),
        (false, true) => (entrypoint, template.command.as_slice()),
        (false, false) => (entrypoint, command),
    };
    entrypoint.iter().chain(command).map(String::as_str).collect()
}

/// Whether it is a shell that runs nothing in particular, or does nothing at all.
fn is_plain(words: &[&str]) -> bool {
    let Some((program, arguments)) = words.split_first() else { return false };
    let name = Path::new(program).file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let is_option =
        |word: &&str| word.starts_with('-') && (word.starts_with("--") || !word.contains('c'));
    IDLE.contains(&name) || (SHELLS.contains(&name) && arguments.iter().all(is_option))
}

#[cfg(test)]
mod tests {
    use dwell_core::workload::{Machine, OnImageChange};

    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn what_reaps_nothing_has_an_init() {
        let has = |entrypoint: &str, command: &str| {
            has_one(&Template::of_image("a"), &(words(entrypoint), words(command)))
        };
        for (entrypoint, command) in [
            ("", "bash"),
            ("", "/bin/sh -l"),
            ("", "sleep infinity"),
            ("tail", "-f /dev/null"),
            ("", "bash --login"),
        ] {
            assert!(has(entrypoint, command), "{entrypoint} {command}");
        }
        for (entrypoint, command) in [
            ("", ""),
            ("", "nginx"),
            ("", "sh -c nginx"),
            ("", "sh /start.sh"),
            ("/entry.sh", "sleep 1"),
            ("", "/sbin/init"),
        ] {
            assert!(!has(entrypoint, command), "{entrypoint} {command}");
        }
    }

    #[test]
    fn what_is_declared_counts() {
        let mut template = Template::of_image("a");
        template.command = words("sleep infinity");
        assert!(has_one(&template, &(vec![], words("nginx"))));
        template.process.init = Some(Init::None);
        assert!(!has_one(&template, &(vec![], vec![])));
        template.process.init = None;
        template.entrypoint = words("nginx");
        assert!(!has_one(&template, &(vec![], words("sleep"))));
        template.machine =
            Some(Machine { volume: "root".parse().unwrap(), on_image_change: OnImageChange::Keep });
        assert!(has_one(&template, &(vec![], vec![])));
        template.process.init = Some(Init::Systemd);
        assert!(!has_one(&template, &(vec![], vec![])));
    }
}
