//! Tables for terminals: columns as wide as their widest cell, two spaces apart, header in bold.

use super::output::{Paint, Style};
use std::fmt::Write as _;

/// Rows under headers. A cell may carry a style; widths count characters, not escape codes.
pub(crate) struct Table {
    headers: Vec<&'static str>,
    rows: Vec<Vec<Cell>>,
}

pub(crate) struct Cell {
    text: String,
    style: Style,
    right: bool,
}

impl Cell {
    pub(crate) fn styled(text: impl Into<String>, style: Style) -> Self {
        Self { text: text.into(), style, right: false }
    }

    pub(crate) fn right(mut self) -> Self {
        self.right = true;
        self
    }

    /// Numbers stand under each other by their last digit.
    pub(crate) fn number(value: &impl ToString) -> Self {
        Self { text: value.to_string(), style: Style::Plain, right: true }
    }
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::styled(text, Style::Plain)
    }
}

impl Table {
    pub(crate) fn new(headers: &[&'static str]) -> Self {
        Self { headers: headers.to_vec(), rows: Vec::new() }
    }

    pub(crate) fn row(&mut self, cells: Vec<Cell>) {
        debug_assert_eq!(cells.len(), self.headers.len());
        self.rows.push(cells);
    }

    pub(crate) fn render(&self, paint: Paint) -> String {
        let widths: Vec<usize> = (0..self.headers.len())
            .map(|at| {
                let cells = self.rows.iter().filter_map(|row| row.get(at)).map(|cell| width(&cell.text));
                cells.chain([width(self.headers[at])]).max().unwrap_or(0)
            })
            .collect();
        let header: Vec<Cell> = self.headers.iter().map(|text| Cell::styled(*text, Style::Bold)).collect();
        let mut out = String::new();
        line(&mut out, &header, &widths, paint);
        for row in &self.rows {
            line(&mut out, row, &widths, paint);
        }
        out
    }
}

fn line(out: &mut String, cells: &[Cell], widths: &[usize], paint: Paint) {
    for (at, (cell, wide)) in cells.iter().zip(widths).enumerate() {
        let pad = " ".repeat(wide.saturating_sub(width(&cell.text)));
        let text = paint.text(&cell.text, cell.style);
        let last = at + 1 == cells.len();
        let gap = if at == 0 { "" } else { "  " };
        let _ = match (cell.right, last) {
            (true, _) => write!(out, "{gap}{pad}{text}"),
            (false, true) => write!(out, "{gap}{text}"),
            (false, false) => write!(out, "{gap}{text}{pad}"),
        };
    }
    out.push('\n');
}

fn width(text: &str) -> usize {
    text.chars().count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_no_line_ends_in_blanks() {
        let mut table = Table::new(&["NAME", "COUNT", "NOTE"]);
        table.row(vec!["a-long-name".into(), Cell::number(&7), "x".into()]);
        table.row(vec!["b".into(), Cell::number(&1234), "".into()]);
        let text = table.render(Paint::off());
        assert_eq!(text, "NAME         COUNT  NOTE\na-long-name      7  x\nb             1234  \n");
    }

    #[test]
    fn colour_does_not_move_columns() {
        let mut table = Table::new(&["A", "B"]);
        table.row(vec![Cell::styled("ok", Style::Good), "1".into()]);
        let painted = table.render(Paint::on());
        assert!(painted.contains("\u{1b}[32mok\u{1b}[0m  1\n"), "{painted:?}");
    }
}
