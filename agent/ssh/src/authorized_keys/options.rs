//! The options in front of a key: `name`, `name="value"`, separated by commas, ended by a space outside of quotes.

use jiff::civil::DateTime;
use jiff::tz::TimeZone;

use super::{Forced, KeyOptions, LineError};
use crate::pattern::{AddressList, Target};

/// Most values of options that are lists.
const MAX_VALUES: usize = 256;

impl Default for KeyOptions {
    fn default() -> Self {
        Self {
            authority: false,
            principals: None,
            terminal: true,
            forwarding: true,
            agent: true,
            command: None,
            login: None,
            from: None,
            expires: None,
            open: None,
            listen: None,
        }
    }
}

/// Splits `line` into its options and what follows them.
pub(super) fn parse(line: &str) -> Result<(KeyOptions, &str), LineError> {
    let mut options = KeyOptions::default();
    let mut rest = line;
    loop {
        let end = rest.find(['=', ',', ' ', '\t']).ok_or(LineError::Key)?;
        let name = &rest[..end];
        rest = &rest[end..];
        let value = match rest.strip_prefix("=\"") {
            Some(quoted) => {
                let (value, after) = unquote(quoted)?;
                rest = after;
                Some(value)
            }
            None => None,
        };
        options.set(name, value)?;
        if let Some(next) = rest.strip_prefix(',') {
            rest = next;
        } else if rest.starts_with([' ', '\t']) {
            return Ok((options, rest.trim_start()));
        } else {
            return Err(LineError::Syntax);
        }
    }
}

/// Reads up to the closing quote, which a backslash keeps from closing.
fn unquote(text: &str) -> Result<(String, &str), LineError> {
    let mut value = String::new();
    let mut characters = text.char_indices().peekable();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Ok((value, &text[at + 1..])),
            '\\' if characters.next_if(|(_, next)| *next == '"').is_some() => value.push('"'),
            '\0' => return Err(LineError::Syntax),
            other => value.push(other),
        }
    }
    Err(LineError::Syntax)
}

impl KeyOptions {
    fn set(&mut self, name: &str, value: Option<String>) -> Result<(), LineError> {
        let lower = name.to_ascii_lowercase();
        match (lower.as_str(), value) {
            ("restrict", None) => {
                (self.terminal, self.forwarding, self.agent) = (false, false, false);
            }
            ("pty", None) => self.terminal = true,
            ("no-pty", None) => self.terminal = false,
            ("port-forwarding", None) => self.forwarding = true,
            ("no-port-forwarding", None) => self.forwarding = false,
            ("agent-forwarding", None) => self.agent = true,
            ("no-agent-forwarding", None) => self.agent = false,
            ("cert-authority", None) => self.authority = true,
            (
                "x11-forwarding" | "no-x11-forwarding" | "user-rc" | "no-user-rc"
                | "no-touch-required",
                None,
            )
            | ("environment", Some(_)) => {}
            ("command", Some(command)) => {
                let command = Forced::parse(&command).ok_or(LineError::Value("command"))?;
                once(&mut self.command, command, "command")?;
            }
            ("login", Some(list)) => once(&mut self.login, names(&list, "login")?, "login")?,
            ("from", Some(list)) => {
                let list = AddressList::patterns(&list).ok_or(LineError::Value("from"))?;
                once(&mut self.from, list, "from")?;
            }
            ("principals", Some(list)) => {
                once(&mut self.principals, names(&list, "principals")?, "principals")?;
            }
            ("expiry-time", Some(time)) => {
                let time = seconds_since_1970(&time).ok_or(LineError::Value("expiry-time"))?;
                once(&mut self.expires, time, "expiry-time")?;
            }
            ("permitopen", Some(target)) => {
                let target = Target::with_host(&target).ok_or(LineError::Value("permitopen"))?;
                add(&mut self.open, target, "permitopen")?;
            }
            ("permitlisten", Some(target)) => {
                let target =
                    Target::host_optional(&target).ok_or(LineError::Value("permitlisten"))?;
                add(&mut self.listen, target, "permitlisten")?;
            }
            _ => return Err(LineError::Unknown(printable(name))),
        }
        Ok(())
    }
}

/// Names that are separated by commas.
fn names(list: &str, option: &'static str) -> Result<Vec<String>, LineError> {
    let names: Vec<String> = list.split(',').map(str::to_owned).collect();
    let are_sound = names.len() <= MAX_VALUES && !names.iter().any(String::is_empty);
    if are_sound { Ok(names) } else { Err(LineError::Value(option)) }
}

fn once<T>(slot: &mut Option<T>, value: T, name: &'static str) -> Result<(), LineError> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(LineError::Value(name)),
    }
}

fn add(
    list: &mut Option<Vec<Target>>,
    target: Target,
    name: &'static str,
) -> Result<(), LineError> {
    let list = list.get_or_insert_default();
    if list.len() == MAX_VALUES {
        return Err(LineError::Value(name));
    }
    list.push(target);
    Ok(())
}

/// `YYYYMMDD`, `YYYYMMDDHHMM` or `YYYYMMDDHHMMSS`, with or without a `Z`.
fn seconds_since_1970(text: &str) -> Option<u64> {
    let digits = text.strip_suffix(['Z', 'z']).unwrap_or(text);
    if !matches!(digits.len(), 8 | 12 | 14) || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let part = |from: usize, to: usize| match digits.get(from..to) {
        Some(part) => part.parse::<i8>().ok(),
        None => Some(0),
    };
    let year: i16 = digits.get(..4)?.parse().ok()?;
    let time = DateTime::new(
        year,
        part(4, 6)?,
        part(6, 8)?,
        part(8, 10)?,
        part(10, 12)?,
        part(12, 14)?,
        0,
    );
    let seconds = time.ok()?.to_zoned(TimeZone::UTC).ok()?.timestamp().as_second();
    u64::try_from(seconds).ok()
}

/// An option's name as it may stand in a message.
fn printable(name: &str) -> String {
    name.chars().filter(|character| !character.is_control()).take(40).collect()
}
