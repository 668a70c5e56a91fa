//! A file as a tree that can be changed, and written again.
//!
//! Scalars are kept as they were written, so that what is read again means the same, whatever it is read as. What is
//! written has each key and each item on a line of its own, and it is remembered where these come from: what is wrong
//! with the text that was written is said of the text that somebody wrote.

use std::rc::Rc;

use serde_saphyr::Location;

use super::problem::Problem;
use super::shape::{Kind, Node};

/// A piece of a file, and where it is from.
#[derive(Clone, Debug)]
pub(super) struct Item {
    pub(super) value: Tree,
    pub(super) origin: Origin,
}

/// What it is.
#[derive(Clone, Debug)]
pub(super) enum Tree {
    Map(Vec<(Key, Item)>),
    List(Vec<Item>),
    Scalar(Scalar),
    Null,
}

/// The key of a mapping, and where it is from.
#[derive(Clone, Debug)]
pub(super) struct Key {
    pub(super) name: String,
    pub(super) origin: Origin,
}

/// A single value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Scalar {
    pub(super) text: String,
    /// Whether the text is to be written as it is, without quotes: so it can be a number or true.
    plain: bool,
}

/// Where a piece is from.
#[derive(Clone, Debug, Default)]
pub(super) struct Origin {
    /// Line and column in the file that is read.
    position: Option<(u64, u64)>,
    /// In which other file, and where, it is.
    elsewhere: Option<Rc<str>>,
}

impl Scalar {
    /// A text, whatever it looks like.
    pub(super) fn text(text: impl Into<String>) -> Self {
        Self { text: text.into(), plain: false }
    }
}

impl Item {
    /// What is not from a file.
    pub(super) fn new(value: Tree) -> Self {
        Self { value, origin: Origin::default() }
    }

    /// A text that is not from a file.
    pub(super) fn text(text: impl Into<String>) -> Self {
        Self::new(Tree::Scalar(Scalar::text(text)))
    }

    /// True or false, not from a file.
    pub(super) fn flag(flag: bool) -> Self {
        Self::new(Tree::Scalar(Scalar { text: flag.to_string(), plain: true }))
    }

    /// A list of texts that is not from a file.
    pub(super) fn texts<T: Into<String>>(texts: impl IntoIterator<Item = T>) -> Self {
        Self::new(Tree::List(texts.into_iter().map(Self::text).collect()))
    }

    /// From what was read of a source.
    pub(super) fn of(node: &Node, source: &str) -> Self {
        let value = match &node.value {
            Kind::Map(entries) => Tree::Map(
                entries
                    .iter()
                    .map(|(key, value)| {
                        let origin = Origin::at(key.referenced);
                        (Key { name: key.value.clone(), origin }, Self::of(value, source))
                    })
                    .collect(),
            ),
            Kind::List(items) => Tree::List(items.iter().map(|it| Self::of(it, source)).collect()),
            Kind::Scalar(text) => Tree::Scalar(scalar(text, source, node.defined)),
            Kind::Null => Tree::Null,
        };
        Self { value, origin: Origin::at(node.referenced) }
    }

    /// The value of a key, if it is a mapping that has it.
    pub(super) fn get(&self, name: &str) -> Option<&Self> {
        let entries = self.entries()?;
        entries.iter().find(|(key, _)| key.name == name).map(|(_, value)| value)
    }

    /// Its keys and values, if it is a mapping.
    pub(super) fn entries(&self) -> Option<&[(Key, Self)]> {
        match &self.value {
            Tree::Map(entries) => Some(entries),
            _ => None,
        }
    }

    /// The value of a key, to be changed, if it is a mapping that has it.
    pub(super) fn get_mut(&mut self, name: &str) -> Option<&mut Self> {
        let entries = self.entries_mut()?;
        entries.iter_mut().find(|(key, _)| key.name == name).map(|(_, value)| value)
    }

    /// Its keys and values, to be changed, if it is a mapping.
    pub(super) fn entries_mut(&mut self) -> Option<&mut Vec<(Key, Self)>> {
        match &mut self.value {
            Tree::Map(entries) => Some(entries),
            _ => None,
        }
    }

    /// Takes a key out of it, if it is a mapping that has it.
    pub(super) fn remove(&mut self, name: &str) -> Option<(Key, Self)> {
        let entries = self.entries_mut()?;
        let index = entries.iter().position(|(key, _)| key.name == name)?;
        Some(entries.remove(index))
    }

    /// Sets a key, in place of what it has there, if it is a mapping.
    pub(super) fn insert(&mut self, key: Key, value: Self) {
        self.remove(&key.name);
        if let Some(entries) = self.entries_mut() {
            entries.push((key, value));
        }
    }

    /// Sets a key to a text, if it is a mapping.
    pub(super) fn set_text(&mut self, name: &str, text: &str) {
        let key = Key { name: name.to_owned(), origin: self.origin.clone() };
        let origin = self.origin.clone();
        self.insert(key, Self { origin, ..Self::text(text) });
    }

    /// Adds a text to the list of a key, if it is a mapping.
    pub(super) fn push_text(&mut self, name: &str, text: &str) {
        let origin = self.origin.clone();
        let (key, list) = match self.remove(name) {
            Some((key, list)) => (key, list),
            None => (Key { name: name.to_owned(), origin: origin.clone() }, Self::new(Tree::Null)),
        };
        let mut items = list.into_items();
        items.push(Self { origin: origin.clone(), ..Self::text(text) });
        self.insert(key, Self { value: Tree::List(items), origin });
    }

    /// Its items; a single value is one, and nothing is none.
    pub(super) fn into_items(self) -> Vec<Self> {
        match self.value {
            Tree::List(items) => items,
            Tree::Null => Vec::new(),
            _ => vec![self],
        }
    }

    /// Its items; a single value is a list of one, and nothing one of none.
    pub(super) fn items(&self) -> &[Self] {
        match &self.value {
            Tree::List(items) => items,
            Tree::Null => &[],
            _ => std::slice::from_ref(self),
        }
    }

    /// Its text, if it is a single value.
    pub(super) fn scalar(&self) -> Option<&str> {
        match &self.value {
            Tree::Scalar(scalar) => Some(&scalar.text),
            _ => None,
        }
    }

    /// Says of it, and of all in it, that it is from another file, which somebody names here.
    pub(super) fn moved(mut self, file: &str, here: &Origin) -> Self {
        self.origin = self.origin.moved(file, here);
        match &mut self.value {
            Tree::Map(entries) => {
                for (key, value) in entries {
                    key.origin = std::mem::take(&mut key.origin).moved(file, here);
                    *value = std::mem::replace(value, Self::new(Tree::Null)).moved(file, here);
                }
            }
            Tree::List(items) => {
                for item in items {
                    *item = std::mem::replace(item, Self::new(Tree::Null)).moved(file, here);
                }
            }
            Tree::Scalar(_) | Tree::Null => {}
        }
        self
    }
}

impl Origin {
    fn at(location: Location) -> Self {
        let known = location != Location::UNKNOWN;
        Self { position: known.then(|| (location.line(), location.column())), elsewhere: None }
    }

    fn moved(self, file: &str, here: &Self) -> Self {
        let place = match (&self.elsewhere, self.position) {
            (Some(place), _) => place.to_string(),
            (None, Some((line, column))) => format!("{file}:{line}:{column}"),
            (None, None) => file.to_owned(),
        };
        Self { position: here.position, elsewhere: Some(place.into()) }
    }

    /// What is wrong there.
    pub(super) fn problem(&self, message: String) -> Problem {
        let message = match &self.elsewhere {
            Some(place) => format!("{place}: {message}"),
            None => message,
        };
        Problem { position: self.position, message }
    }
}

/// A scalar as it was written, unless it had quotes or several lines.
fn scalar(text: &str, source: &str, location: Location) -> Scalar {
    let span = location.span();
    let written = span.byte_offset().zip(span.byte_len()).and_then(|(at, length)| {
        let at = usize::try_from(at).ok()?;
        source.get(at..at.checked_add(usize::try_from(length).ok()?)?)
    });
    let written = written.unwrap_or_default().trim();
    let is_number = written.starts_with(|c: char| c.is_ascii_digit() || "+-.".contains(c));
    let is_flag = text == "true" || text == "false";
    let is_line = !written.is_empty() && !written.contains(['\n', '\r']);
    if is_line && !written.starts_with(['"', '\'']) && (written == text || is_number || is_flag) {
        return Scalar { text: written.to_owned(), plain: true };
    }
    Scalar::text(text)
}

/// A file that was written.
#[derive(Debug, Default)]
pub(super) struct Written {
    pub(super) text: String,
    /// Where what begins at a line and a column is from, in order.
    origins: Vec<((u64, u64), Origin)>,
    lines: u64,
}

impl Written {
    /// A mapping as a file.
    pub(super) fn of(item: &Item) -> Self {
        let mut written = Self::default();
        written.write(item, 0);
        written
    }

    /// The same problem, where it is from.
    pub(super) fn origin_of(&self, problem: Problem) -> Problem {
        let Some(position) = problem.position else { return problem };
        let before = self.origins.partition_point(|(at, _)| *at <= position);
        match before.checked_sub(1).and_then(|index| self.origins.get(index)) {
            Some((_, origin)) => origin.problem(problem.message),
            None => Problem { position: None, ..problem },
        }
    }

    fn write(&mut self, item: &Item, indent: usize) {
        match &item.value {
            Tree::Map(entries) => {
                for (key, value) in entries {
                    let name = quoted(&key.name, false);
                    let column = indent as u64 + 1;
                    self.origins.push(((self.lines + 1, column), key.origin.clone()));
                    self.text += &format!("{:indent$}{name}:", "");
                    self.value(value, indent, column + name.chars().count() as u64 + 2);
                }
            }
            Tree::List(items) => {
                for item in items {
                    let column = indent as u64 + 3;
                    if item.is_nested() {
                        let from = self.text.len();
                        self.write(item, indent + 2);
                        // The first line of what is in it is that of the item.
                        let dash = from + indent;
                        self.text.replace_range(dash..dash + 2, "- ");
                    } else {
                        self.text += &format!("{:indent$}-", "");
                        self.value(item, indent, column);
                    }
                }
            }
            Tree::Scalar(_) | Tree::Null => self.value(item, indent, 1),
        }
    }

    /// What comes after a key or a dash, with the end of the line.
    fn value(&mut self, item: &Item, indent: usize, column: u64) {
        if item.is_nested() {
            self.end_line();
            return self.write(item, indent + 2);
        }
        self.origins.push(((self.lines + 1, column), item.origin.clone()));
        match &item.value {
            Tree::Map(_) => self.text += " {}",
            Tree::List(_) => self.text += " []",
            Tree::Null => self.text += " null",
            Tree::Scalar(scalar) => match block(&scalar.text).filter(|_| !scalar.plain) {
                Some(head) => {
                    self.text += &format!(" {head}");
                    for line in scalar.text.trim_end_matches('\n').split('\n') {
                        self.end_line();
                        if !line.is_empty() {
                            self.text += &format!("{:width$}{line}", "", width = indent + 2);
                        }
                    }
                }
                None => self.text += &format!(" {}", quoted(&scalar.text, scalar.plain)),
            },
        }
        self.end_line();
    }

    fn end_line(&mut self) {
        self.text.push('\n');
        self.lines += 1;
    }
}

impl Item {
    /// Whether it takes lines of its own.
    fn is_nested(&self) -> bool {
        match &self.value {
            Tree::Map(entries) => !entries.is_empty(),
            Tree::List(items) => !items.is_empty(),
            Tree::Scalar(_) | Tree::Null => false,
        }
    }
}

/// How a text of several lines is written, if that can be read.
fn block(text: &str) -> Option<&'static str> {
    let lines = text.strip_suffix('\n').unwrap_or(text);
    let is_odd = |line: &str| line.chars().any(|c| c.is_control() || c == '\u{feff}');
    let fits = lines.contains('\n')
        && !lines.starts_with([' ', '\n'])
        && !lines.ends_with('\n')
        && !lines.split('\n').any(is_odd);
    fits.then_some(if text.ends_with('\n') { "|" } else { "|-" })
}

/// A text with quotes, where it needs them.
fn quoted(text: &str, plain: bool) -> String {
    let words = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"];
    let is_safe = |c: char| c.is_ascii_alphanumeric() || "_./-".contains(c);
    let is_word = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_' || c == '/')
        && text.chars().all(is_safe)
        && !words.contains(&text.to_ascii_lowercase().as_str());
    match plain || is_word {
        true => text.to_owned(),
        // What JSON writes is YAML.
        false => serde_json::Value::from(text).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Item {
        Item::of(&serde_saphyr::from_str(text).unwrap(), text)
    }

    #[test]
    fn what_is_written_is_read_as_what_it_was() {
        let text = "\
a: 1.10\nb: \"1.10\"\nc: 'no'\nd: é ü\ne: [1, 'x y', [], {}, [a, b], {f: g, h: ~}]\n'i j': |\n  k: l\n\n    m\nn: >-\n  o\n  p\nq: $R ${S:-t}\nu: 0x1F\nv: true\nw: 'tr\\n'\nx: \"a\\nb\"\n";
        let written = Written::of(&read(text)).text;
        let again = Written::of(&read(&written)).text;
        assert_eq!(written, again);
        let values = |text: &str| serde_saphyr::from_str::<serde_json::Value>(text).unwrap();
        assert_eq!(values(text), values(&written), "{written}");
        for line in ["a: 1.10", "b: \"1.10\"", "c: \"no\"", "u: 0x1F", "q: $R ${S:-t}", "x: |-"] {
            assert!(written.lines().any(|one| one == line), "{line}\n{written}");
        }
    }

    #[test]
    fn what_is_wrong_with_what_was_written_is_said_of_what_it_is_from() {
        let text = "a:\n- {b: c,   d: e}\n- f\n";
        let written = Written::of(&read(text));
        assert_eq!(written.text, "a:\n  - b: c\n    d: e\n  - f\n");
        for (at, is) in [((2, 5), (2, 4)), ((2, 8), (2, 7)), ((3, 8), (2, 15)), ((4, 5), (3, 3))] {
            let problem = Problem { position: Some(at), message: String::new() };
            assert_eq!(written.origin_of(problem).position, Some(is), "{at:?}");
        }
        let moved =
            read(text).moved("other.yaml", &Origin { position: Some((9, 9)), ..Origin::default() });
        let problem = Problem { position: Some((3, 8)), message: "bad".into() };
        let said = Written::of(&moved).origin_of(problem);
        assert_eq!((said.position, said.message.as_str()), (Some((9, 9)), "other.yaml:2:15: bad"));
    }
}
