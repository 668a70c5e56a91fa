//! Variables that a file refers to and nobody has set.
//!
//! The YAML reader fills variables in as Compose does, which makes an unset one an empty text; that is
//! hardly ever meant, so it is refused beforehand. Comments are left out; a text that looks like one
//! (` #` within quotes) only escapes this check.

use std::collections::BTreeSet;

use super::Variables;
use super::problem::Problem;

/// One problem for each reference to a variable that is not set and has no default.
pub(super) fn unset(text: &str, variables: &Variables) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let end = if line.trim_start().starts_with('#') {
            0
        } else {
            line.find(" #").unwrap_or(line.len())
        };
        for (at, name) in references(&line[..end]) {
            if !variables.contains_key(name) {
                let column = line[..at].chars().count() as u64 + 1;
                problems.push(Problem {
                    position: Some((number, column)),
                    message: format!(
                        "variable {name:?} is not set; set it, write ${{{name}:-DEFAULT}}, or $$ for a plain '$'"
                    ),
                });
            }
        }
    }
    problems
}

/// The names of those variables.
pub(super) fn unset_names<'a>(text: &'a str, variables: &Variables) -> BTreeSet<&'a str> {
    let names = text.lines().flat_map(references).map(|(_, name)| name);
    names.filter(|name| !variables.contains_key(*name)).collect()
}

/// Every `$NAME` and `${NAME}` of a line, with the byte it begins at; not `$$` and not `${NAME:-…}`.
fn references(line: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(dollar) = line[at..].find('$').map(|offset| at + offset) {
        let rest = &line[dollar + 1..];
        let (rest, braced) = rest.strip_prefix('{').map_or((rest, false), |rest| (rest, true));
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
        let name = &rest[..end];
        let is_name = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
        if is_name && (!braced || rest[end..].starts_with('}')) {
            found.push((dollar, name));
        }
        at = dollar + 1 + usize::from(line[dollar + 1..].starts_with('$'));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_found() {
        let names = |line| references(line).into_iter().map(|(_, name)| name).collect::<Vec<_>>();
        assert_eq!(names("$A ${B} x$C-${D:-1} $$E $5 $ ${ ${F"), ["A", "B", "C"]);
        assert_eq!(names("$"), Vec::<&str>::new());
        assert_eq!(names("é$é$A"), ["A"]);
    }
}
