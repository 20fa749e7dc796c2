//! Aligned tables, for terminals and for pipes.

use std::io::IsTerminal as _;

/// Which edge the texts of a column share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    /// Words.
    Left,
    /// Numbers.
    Right,
}

/// One text of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cell {
    text: String,
    bad: bool,
}

impl Cell {
    /// A text to be shown in red where colours are shown.
    pub fn bad(text: impl Into<String>) -> Self {
        Self { text: text.into(), bad: true }
    }

    /// Red where `bad`, plain elsewhere.
    pub fn red_if(bad: bool, text: impl Into<String>) -> Self {
        Self { text: text.into(), bad }
    }
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self { text: text.into(), bad: false }
    }
}

#[derive(Clone, Debug)]
struct Column {
    title: &'static str,
    align: Align,
    width: usize,
}

/// Columns with a title each, and rows under them.
#[derive(Clone, Debug)]
pub struct Table {
    columns: Vec<Column>,
    rows: Vec<Vec<Cell>>,
    colour: bool,
}

impl Table {
    /// A table with these columns and no row yet, without colour.
    pub fn new(columns: &[(&'static str, Align)]) -> Self {
        let columns = columns.iter().map(|&(title, align)| Column { title, align, width: width(title) }).collect();
        Self { columns, rows: Vec::new(), colour: false }
    }

    /// Shows bad cells in red.
    #[must_use]
    pub fn with_colour(mut self, colour: bool) -> Self {
        self.colour = colour;
        self
    }

    /// Makes room for texts that come later, for tables that are printed a row at a time.
    #[must_use]
    pub fn with_room(mut self, widths: &[usize]) -> Self {
        for (column, width) in self.columns.iter_mut().zip(widths) {
            column.width = column.width.max(*width);
        }
        self
    }

    /// Adds a row; cells that are missing at its end stay empty.
    pub fn push(&mut self, row: Vec<Cell>) {
        for (column, cell) in self.columns.iter_mut().zip(&row) {
            column.width = column.width.max(width(&cell.text));
        }
        self.rows.push(row);
    }

    /// The line of titles.
    pub fn header(&self) -> String {
        self.line(&self.columns.iter().map(|column| Cell::from(column.title)).collect::<Vec<_>>())
    }

    /// One line, as wide as the table is so far.
    pub fn line(&self, row: &[Cell]) -> String {
        let mut line = String::new();
        for (index, (column, cell)) in self.columns.iter().zip(row).enumerate() {
            if index > 0 {
                line.push_str("  ");
            }
            let padding = " ".repeat(column.width.saturating_sub(width(&cell.text)));
            let text = match cell.bad && self.colour {
                true => format!("\u{1b}[31m{}\u{1b}[0m", cell.text),
                false => cell.text.clone(),
            };
            match column.align {
                Align::Left => line.extend([text, padding]),
                Align::Right => line.extend([padding, text]),
            }
        }
        line.truncate(line.trim_end().len());
        line
    }

    /// Titles and all rows, a line each.
    pub fn render(&self) -> String {
        let lines = std::iter::once(self.header()).chain(self.rows.iter().map(|row| self.line(row)));
        lines.map(|line| line + "\n").collect()
    }
}

/// Columns of a terminal that a text takes. Good for Latin letters and the signs used here, not for every script.
fn width(text: &str) -> usize {
    text.chars().count()
}

/// True where standard output is a terminal whose user has not declined colours (<https://no-color.org>).
pub fn colour_wanted() -> bool {
    std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// A time in microseconds with three significant digits, or whole where it is long.
pub fn microseconds(value: f64) -> String {
    match value {
        value if value < 9.995 => format!("{value:.2}"),
        value if value < 99.95 => format!("{value:.1}"),
        value => format!("{value:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table = Table::new(&[("kernel", Align::Left), ("µs", Align::Right), ("note", Align::Left)]);
        table.push(vec!["v1/f16_d64".into(), "1378".into()]);
        table.push(vec!["v2b".into(), Cell::bad("8.5"), "slow".into()]);
        table
    }

    #[test]
    fn columns_align_and_no_line_ends_in_spaces() {
        insta::assert_snapshot!(table().render(), @r"
        kernel        µs  note
        v1/f16_d64  1378
        v2b          8.5  slow
        ");
    }

    #[test]
    fn colour_does_not_move_a_column() {
        let coloured = table().with_colour(true).render();
        assert!(coloured.contains("\u{1b}[31m8.5\u{1b}[0m"));
        assert_eq!(coloured.replace("\u{1b}[31m", "").replace("\u{1b}[0m", ""), table().render());
    }

    #[test]
    fn times_have_three_digits() {
        assert_eq!([1.234, 9.996, 12.34, 99.96, 1377.6].map(microseconds), ["1.23", "10.0", "12.3", "100", "1378"]);
    }
}
