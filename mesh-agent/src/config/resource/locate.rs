//! Lines of documents and fields, for diagnostics.
//!
//! The YAML library gives no line for what it read well, so lines are found in the text by indentation. This serves
//! people only: where the layout is unusual (flow style, JSON on one line) the object's own line is the answer.

/// A document of a file: its text and the 1-based line its first line has in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Document<'a> {
    pub(crate) text: &'a str,
    pub(crate) first_line: u32,
}

/// Splits at lines that begin with `---`, as kubectl does, so that one malformed document leaves its neighbours whole.
pub(crate) fn documents(text: &str) -> Vec<Document<'_>> {
    let mut found = Vec::new();
    let (mut start, mut offset, mut first_line, mut line) = (0, 0, 1, 1);
    for piece in text.split_inclusive('\n') {
        let rest = piece.strip_prefix("---").map(str::trim_end);
        let separator = rest.is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '#']));
        if separator || piece.trim_end() == "..." {
            found.push(Document { text: &text[start..offset], first_line });
            // `--- {a: 1}` and `--- # note`: what follows belongs to the new document.
            let inline = if separator { 3 } else { piece.len() };
            start = offset + inline;
            first_line = line;
        }
        offset += piece.len();
        line += 1;
    }
    found.push(Document { text: &text[start..], first_line });
    found.retain(|d| d.text.lines().any(|l| !l.trim().is_empty() && !l.trim_start().starts_with(['#', '%'])));
    found
}

/// 0-based line of the first line that is neither blank nor comment.
pub(crate) fn first_content(text: &str) -> u32 {
    let line = text.lines().position(|l| !l.trim().is_empty() && !l.trim_start().starts_with('#'));
    u32::try_from(line.unwrap_or(0)).unwrap_or(0)
}

/// 0-based line at which `path` (`items[2].spec.ports[0].port`) stands in a block-style document; the deepest part of
/// the path that can be found, none where not even its first part can.
pub(crate) fn line_of(text: &str, path: &str) -> Option<u32> {
    let lines: Vec<&str> = text.lines().collect();
    let mut block = Block { first: 0, deeper_than: None, keys_at: None };
    let mut found = None;
    for part in parts(path) {
        let hit = match part {
            Part::Field(name) => field_line(&lines, &block, name),
            Part::Index(n) => item_line(&lines, &block, n),
        };
        let Some((line, inner)) = hit else { break };
        (found, block) = (Some(line), inner);
    }
    found.and_then(|line| u32::try_from(line).ok())
}

/// Where the rest of a path is searched.
struct Block {
    first: usize,
    /// Column of the key that owns the block; its fields stand further right, its list items may stand level.
    deeper_than: Option<usize>,
    /// Column of the block's own keys, once known.
    keys_at: Option<usize>,
}

enum Part<'a> {
    Field(&'a str),
    Index(usize),
}

fn parts(path: &str) -> impl Iterator<Item = Part<'_>> {
    path.split(['.', '[']).filter(|part| !part.is_empty()).map(|part| {
        let index = part.strip_suffix(']').and_then(|n| n.parse().ok());
        index.map_or(Part::Field(part), Part::Index)
    })
}

/// Column at which a line's content begins, `- ` of list items counting as indentation.
fn columns(line: &str) -> Option<(usize, &str)> {
    let content = line.trim_start_matches([' ', '-']);
    (!content.trim().is_empty() && !content.starts_with('#')).then(|| (line.len() - content.len(), content))
}

/// Finds `name:` among the keys of the block.
fn field_line(lines: &[&str], block: &Block, name: &str) -> Option<(usize, Block)> {
    let mut keys_at = block.keys_at;
    for (n, line) in lines.iter().enumerate().skip(block.first) {
        let Some((column, content)) = columns(line) else { continue };
        let wanted = *keys_at.get_or_insert(column);
        if column < wanted || block.deeper_than.is_some_and(|owner| column <= owner) {
            return None;
        }
        let key = content.split(':').next().unwrap_or("").trim_matches(['"', '\'', ' ']);
        if column == wanted && key == name {
            return Some((n, Block { first: n + 1, deeper_than: Some(column), keys_at: None }));
        }
    }
    None
}

/// Finds the `n`th `- ` of the block; its keys stand where the dash's content does.
fn item_line(lines: &[&str], block: &Block, n: usize) -> Option<(usize, Block)> {
    let mut dash_at = None;
    let mut seen = 0;
    for (at, line) in lines.iter().enumerate().skip(block.first) {
        let trimmed = line.trim_start();
        if trimmed.is_empty() || trimmed.starts_with('#') {
            continue;
        }
        let column = line.len() - trimmed.len();
        let dash = trimmed.starts_with("- ") || trimmed == "-";
        let wanted = *dash_at.get_or_insert(column);
        if column < wanted || (column == wanted && !dash) || block.deeper_than.is_some_and(|owner| column < owner) {
            return None;
        }
        if column == wanted {
            if seen == n {
                let keys_at = columns(line).map(|(column, _)| column);
                return Some((at, Block { first: at, deeper_than: Some(column), keys_at }));
            }
            seen += 1;
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_keep_their_lines() {
        let text = "# head\n---\na: 1\n--- # two\nb: 2\n---\n\n---\n# nothing\n--- \nc: |\n  ----\n";
        let found: Vec<_> =
            documents(text).into_iter().map(|d| (d.first_line + first_content(d.text), d.text.len())).collect();
        assert_eq!(found.iter().map(|(line, _)| *line).collect::<Vec<_>>(), [3, 5, 11]);
        assert_eq!(documents("").len(), 0);
        assert_eq!(documents("a: 1").len(), 1);
    }

    #[test]
    fn fields_are_found_in_lists_of_lists() {
        let text = "kind: List\nitems:\n- kind: Service\n  spec:\n    ports:\n    - name: a\n      port: 1\n    - name: b\n\n      port: 2\n- kind: Pod\n  spec:\n    x: 1\n";
        assert_eq!(line_of(text, "items[0].spec.ports[1].port"), Some(9));
        assert_eq!(line_of(text, "items[1].spec.x"), Some(12));
        assert_eq!(line_of(text, "items[1]"), Some(10));
        assert_eq!(line_of(text, "items[0].spec.nothing"), Some(3));
        assert_eq!(line_of("{\"a\": 1}", "a"), None);
        assert_eq!(line_of(text, "items[7].spec"), Some(1));
    }
}
