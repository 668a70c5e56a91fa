//! Files of environment variables, in the syntax that Compose reads.
//!
//! `KEY=VALUE` on each line, or `KEY: VALUE`; `export` before it, blank lines and comments are skipped. In single quotes a
//! value is as it is; in double quotes `\n` and their like are read; both may go over several lines. `$NAME`, `${NAME}`,
//! `${NAME:-DEFAULT}` and their like stand for variables of whoever applies the file or, if it has none of that name, of
//! the lines above. A key alone is taken from whoever applies the file.

use std::collections::BTreeMap;

use super::Variables;

/// How deep a default may have another one in it.
const DEPTH_MAX: usize = 8;

/// Adds what a file sets to what files before it have set.
///
/// # Errors
/// The line, and what is wrong with it; no value is repeated.
pub(super) fn add(
    text: &str,
    is_raw: bool,
    variables: &Variables,
    set: &mut BTreeMap<String, String>,
) -> Result<(), String> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text).replace("\r\n", "\n");
    let mut rest = text.as_str();
    let line_of = |rest: &str| text[..text.len() - rest.len()].matches('\n').count() + 1;
    while !rest.is_empty() {
        let (line, after) = rest.split_once('\n').unwrap_or((rest, ""));
        let trimmed = line.trim_start();
        if trimmed.trim_end().is_empty() || trimmed.starts_with('#') {
            rest = after;
            continue;
        }
        let number = line_of(rest);
        let wrong = |problem: String| format!("line {number}: {problem}");
        let trimmed = match trimmed.strip_prefix("export") {
            Some(tail) if tail.starts_with([' ', '\t']) => tail.trim_start(),
            _ => trimmed,
        };
        let end = trimmed.find(['=', ':']).unwrap_or(trimmed.len());
        let key = trimmed[..end].trim_end();
        let is_name = |c: char| c.is_ascii_alphanumeric() || "_.-[]".contains(c);
        if key.is_empty() || !key.chars().all(is_name) {
            return Err(wrong("there is no name of a variable; write KEY=VALUE".into()));
        }
        if end == trimmed.len() {
            if let Some(value) = variables.get(key) {
                set.insert(key.to_owned(), value.clone());
            }
            rest = after;
            continue;
        }
        if is_raw {
            set.insert(key.to_owned(), trimmed[end + 1..].to_owned());
            rest = after;
            continue;
        }
        // The value and all that is below it: in quotes it may go on there.
        let value = rest[line.len() - trimmed.len() + end + 1..].trim_start_matches([' ', '\t']);
        let (value, tail) = match value.chars().next() {
            Some(quote @ ('\'' | '"')) => in_quotes(value, quote).map_err(&wrong)?,
            _ => {
                let (line, tail) = value.split_once('\n').unwrap_or((value, ""));
                let end = line.find(" #").or_else(|| line.find("\t#")).unwrap_or(line.len());
                let end = if line.starts_with('#') { 0 } else { end };
                (Value::Filled(line[..end].trim_end().to_owned()), tail)
            }
        };
        let value = match value {
            Value::Plain(text) => text,
            Value::Filled(text) => fill(&text, variables, set, 0).map_err(wrong)?,
        };
        set.insert(key.to_owned(), value);
        rest = tail;
    }
    Ok(())
}

enum Value {
    /// Nothing in it stands for anything else.
    Plain(String),
    /// Variables are filled in.
    Filled(String),
}

/// A value in quotes, and what comes after its line.
fn in_quotes(text: &str, quote: char) -> Result<(Value, &str), String> {
    let mut value = String::new();
    let mut letters = text.char_indices().skip(1);
    while let Some((at, letter)) = letters.next() {
        if letter == quote {
            let (left, tail) = text[at + 1..].split_once('\n').unwrap_or((&text[at + 1..], ""));
            let left = left.trim_start();
            if !left.is_empty() && !left.starts_with('#') {
                return Err("there is something after the closing quote; remove it".into());
            }
            let value = if quote == '"' { Value::Filled(value) } else { Value::Plain(value) };
            return Ok((value, tail));
        }
        if letter != '\\' {
            value.push(letter);
            continue;
        }
        let escaped = letters.next().map(|(_, letter)| letter);
        match (quote, escaped) {
            ('"', Some('n')) => value.push('\n'),
            ('"', Some('r')) => value.push('\r'),
            ('"', Some('t')) => value.push('\t'),
            ('"', Some('$')) => value += "$$",
            ('"', Some(other @ ('"' | '\\'))) | ('\'', Some(other @ '\'')) => value.push(other),
            (_, Some(other)) => value.extend(['\\', other]),
            (_, None) => value.push('\\'),
        }
    }
    Err("the quote is never closed; close it".into())
}

/// A text with its variables filled in.
fn fill(
    text: &str,
    variables: &Variables,
    set: &BTreeMap<String, String>,
    depth: usize,
) -> Result<String, String> {
    if depth > DEPTH_MAX {
        return Err("defaults are nested too deeply; write fewer levels".into());
    }
    let mut filled = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        filled += before;
        let name_end = |text: &str| {
            text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(text.len())
        };
        if let Some(tail) = after.strip_prefix('$') {
            filled.push('$');
            rest = tail;
            continue;
        }
        let (inside, tail) = match after.strip_prefix('{') {
            Some(inside) => {
                let end = closing(inside).ok_or("a '${' is never closed; close it, or write $$")?;
                (&inside[..end], &inside[end + 1..])
            }
            None => after.split_at(name_end(after)),
        };
        let (name, operator) = inside.split_at(name_end(inside));
        let is_name = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
        if !is_name && !after.starts_with('{') {
            filled.push('$');
            rest = after;
            continue;
        }
        if !is_name {
            return Err("there is no name of a variable after '${'; write ${NAME}".into());
        }
        rest = tail;
        let value = variables.get(name).or_else(|| set.get(name));
        let given = value.filter(|value| !value.is_empty());
        let other = |text: &str| fill(text, variables, set, depth + 1);
        filled += &match (operator.get(..2), operator.get(..1)) {
            (Some(":-"), _) => given.cloned().map_or_else(|| other(&operator[2..]), Ok)?,
            (Some(":+"), _) => given.map_or(Ok(String::new()), |_| other(&operator[2..]))?,
            (Some(":?"), _) => {
                given.cloned().ok_or_else(|| format!("variable {name:?} is not set"))?
            }
            (_, Some("-")) => value.cloned().map_or_else(|| other(&operator[1..]), Ok)?,
            (_, Some("+")) => value.map_or(Ok(String::new()), |_| other(&operator[1..]))?,
            (_, Some("?") | None) => value.cloned().ok_or_else(|| {
                format!(
                    "variable {name:?} is not set; set it, write ${{{name}:-DEFAULT}}, or put a value with a plain '$' into single quotes"
                )
            })?,
            _ => return Err(format!("what follows {name:?} within '${{}}' is not understood")),
        };
    }
    Ok(filled + rest)
}

/// Where what was opened before a text is closed.
fn closing(text: &str) -> Option<usize> {
    let mut depth = 0_usize;
    for (at, letter) in text.char_indices() {
        match letter {
            '{' => depth += 1,
            '}' if depth == 0 => return Some(at),
            '}' => depth -= 1,
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str, is_raw: bool) -> Result<Vec<(String, String)>, String> {
        let variables = [("HOME".to_owned(), "/root".to_owned()), ("E".to_owned(), String::new())];
        let mut set = [("B".to_owned(), "before".to_owned())].into();
        add(text, is_raw, &variables.into(), &mut set)?;
        set.remove("B").unwrap();
        Ok(set.into_iter().collect())
    }

    #[test]
    fn files_are_read_as_compose_reads_them() {
        for (text, value) in [
            ("A=1", "1"),
            ("  export A = 1  ", "1"),
            ("A: 1", "1"),
            ("A=", ""),
            ("A=#", ""),
            ("A=1 # one", "1"),
            ("A=1#one", "1#one"),
            ("A=a b", "a b"),
            ("A='a $HOME \\n'", "a $HOME \\n"),
            ("A='it\\'s' # his", "it's"),
            ("A=\"a\\tb\\n\\\"c\\\\ \\$HOME $HOME\"", "a\tb\n\"c\\ $HOME /root"),
            ("A='a\n# b\n'\n", "a\n# b\n"),
            ("A=$HOME/${B}x", "/root/beforex"),
            ("A=$$HOME $ $1", "$HOME $ $1"),
            ("A=${NO:-x${HOME}y}${NO-z}", "x/rootyz"),
            ("A=${E:-x}${E-y}${E+z}${HOME:+w}${NO:+v}${NO+u}", "xzw"),
            ("A=é=ü", "é=ü"),
            ("\u{feff}A=1\r\n", "1"),
            ("A=1\nA=2\n", "2"),
        ] {
            assert_eq!(read(text, false), Ok(vec![("A".into(), value.into())]), "{text:?}");
        }
        assert_eq!(read("\n# A=1\n  \n", false), Ok(vec![]));
        assert_eq!(read("HOME\nNO\n", false), Ok(vec![("HOME".into(), "/root".into())]));
        assert_eq!(read("A='$HOME' # x", true), Ok(vec![("A".into(), "'$HOME' # x".into())]));
    }

    #[test]
    fn what_is_wrong_is_said_with_its_line_and_without_values() {
        for (text, says) in [
            ("A=1\n\nb c\n", "line 3: there is no name of a variable"),
            ("=x", "line 1: there is no name"),
            ("A=1\nB='hush\n\n", "line 2: the quote is never closed"),
            ("A='hush' hush", "line 1: there is something after the closing quote"),
            ("A=hush$NOPE", "line 1: variable \"NOPE\" is not set"),
            ("A=${NOPE:?hush}", "line 1: variable \"NOPE\" is not set"),
            ("A=${HOME", "a '${' is never closed"),
            ("A=${}", "no name of a variable after '${'"),
            ("A=${HOME!x}", "is not understood"),
        ] {
            let refused = read(text, false).unwrap_err();
            assert!(refused.contains(says) && !refused.contains("hush"), "{text:?}: {refused}");
        }
        let deep = format!("A={}x{}", "${N:-".repeat(100), "}".repeat(100));
        assert!(read(&deep, false).unwrap_err().contains("nested too deeply"));
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "[A-Z=:$'\"{}\\\\ \n#é?+-]{0,60}", raw in any::<bool>()) {
            drop(read(&format!("{text}\nB=1"), raw));
        }
    }
}
