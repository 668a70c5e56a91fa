//! Tables without borders, columns two spaces apart.

use std::fmt;
use std::io::{self, IsTerminal};

use comfy_table::{ContentArrangement, presets};
use dwell_core::instance::sanitize;

/// The longest cell, in bytes.
const CELL_MAX: usize = 1024;

/// A table for people.
#[derive(Debug)]
pub(crate) struct Table {
    rows: comfy_table::Table,
    tones: Vec<Tone>,
}

/// How much a row wants to be seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tone {
    /// As everything.
    Plain,
    /// It is on its way, or is not known.
    Attention,
    /// Something is wrong.
    Trouble,
}

/// What the place where a table is shown can do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Style {
    /// Longer lines are cut, in characters.
    width: Option<usize>,
    colour: bool,
}

impl Style {
    /// For programs: nothing is cut or coloured.
    pub(crate) const PLAIN: Self = Self { width: None, colour: false };

    /// Standard output: plain unless it is a terminal, without colour if NO_COLOR is set.
    pub(crate) fn of_stdout() -> Self {
        if !io::stdout().is_terminal() {
            return Self::PLAIN;
        }
        let set = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        let dumb = set("TERM").is_none_or(|terminal| terminal == "dumb");
        Self { width: Some(super::terminal_width()), colour: !dumb && set("NO_COLOR").is_none() }
    }

    /// Whether it is for programs.
    pub(crate) fn is_plain(self) -> bool {
        self.width.is_none()
    }

    /// One line, cut and coloured.
    pub(crate) fn line(self, line: &str, tone: Tone) -> String {
        let line = line.trim_end();
        let cut = match self.width {
            Some(width) if line.chars().count() > width => {
                line.chars().take(width.saturating_sub(1)).chain(['…']).collect()
            }
            _ => line.to_owned(),
        };
        match tone {
            Tone::Attention if self.colour => format!("\u{1b}[33m{cut}\u{1b}[0m\n"),
            Tone::Trouble if self.colour => format!("\u{1b}[31m{cut}\u{1b}[0m\n"),
            _ => cut + "\n",
        }
    }
}

impl Table {
    /// A table with these headings and no rows.
    pub(crate) fn new<const N: usize>(headings: [&str; N]) -> Self {
        let mut rows = comfy_table::Table::new();
        rows.load_style(presets::NOTHING)
            .set_content_arrangement(ContentArrangement::Disabled)
            .set_header(headings);
        for column in rows.column_iter_mut() {
            column.set_padding((0, 2));
        }
        // The headings' own.
        Self { rows, tones: vec![Tone::Plain] }
    }

    /// Adds a row. What would command the terminal is taken out of the cells.
    pub(crate) fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.toned_row(Tone::Plain, cells);
    }

    /// Adds a row that is shown in a tone.
    pub(crate) fn toned_row<const N: usize>(&mut self, tone: Tone, cells: [String; N]) {
        self.rows.add_row(cells.map(|cell| sanitize(&cell, CELL_MAX)));
        self.tones.push(tone);
    }

    /// The table as it is shown in a place.
    pub(crate) fn render(&self, style: Style) -> String {
        let tones = self.tones.iter().copied().chain(std::iter::repeat(Tone::Plain));
        self.rows.lines().zip(tones).map(|(line, tone)| style.line(&line, tone)).collect()
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(Style::PLAIN))
    }
}

/// A value, or a dash in place of nothing.
pub(crate) fn or_dash(text: &str) -> String {
    if text.is_empty() { "-" } else { text }.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_gets_lines_that_fit_and_colours() {
        let mut table = Table::new(["NAME", "MESSAGE"]);
        table.row(["a".into(), "all is well".into()]);
        table.toned_row(Tone::Attention, ["b".into(), "it is on its way".into()]);
        table.toned_row(Tone::Trouble, ["c".into(), "é".repeat(40)]);
        let style = Style { width: Some(20), colour: true };
        insta::assert_snapshot!(
            table.render(style).replace('\u{1b}', "ESC"),
            @r"
        NAME  MESSAGE
        a     all is well
        ESC[33mb     it is on its …ESC[0m
        ESC[31mc     ééééééééééééé…ESC[0m
        "
        );
        let plain = table.to_string();
        assert!(plain.contains(&"é".repeat(40)) && !plain.contains(['\u{1b}', '…']), "{plain}");
    }
}
