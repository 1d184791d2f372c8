//! Regular expressions as RE2 reads them, which is what Istio and Envoy promise.
//!
//! The `regex` crate is RE2's child: linear time, no look-around, no back-references. Where the two read the same text
//! differently, [`translate`] rewrites it; what RE2 refuses is refused here as well.
//!
//! | RE2 | `regex` crate |
//! |---|---|
//! | `\d \w \s \b` are ASCII; `\s` without `\v` | Unicode |
//! | `\Q…\E` quotes | unknown |
//! | `[a[b]`, `[a&&b]`, `[a--b]`, `[a~~b]`: plain characters | set operations |
//! | `\<`, `\>`: plain characters | word boundaries |
//! | `a{`, `a{,2}`: plain characters | error, repetition |
//! | `\123`: octal | error |
//! | `(?x)`, `(?u)`, `\b{start}`: error | verbose mode, Unicode mode, word start |
//! | `\C`: any byte, `a**`: errors with us and with Envoy's UTF-8 texts | error, allowed |

use regex::{Regex, RegexBuilder};
use regex_automata::dfa::{Automaton as _, StartKind, dense};
use regex_automata::util::{start, syntax};
use regex_automata::{Anchored, Input};
use serde::Serialize;
use smallvec::SmallVec;
use std::borrow::Cow;
use std::fmt;
use std::sync::{Arc, OnceLock};

/// Bytes a compiled pattern may take; Envoy warns far below it.
const SIZE_LIMIT: usize = 1 << 20;
/// Bytes of a table; beyond them the pattern is matched the slower way.
const TABLE_LIMIT: usize = 32 << 10;

/// A regular expression that matches in linear time, with RE2's syntax.
///
/// Texts are nearly always ASCII, for which most patterns are a table of a few KiB: thousands of them stay in the
/// processor's caches, where `Regex`, with tens of KiB of scratch memory each, does not. The rest, and other texts, go to
/// `Regex`.
#[derive(Clone)]
pub struct Pattern {
    source: Arc<str>,
    /// In the `regex` crate's words.
    translated: Arc<str>,
    table: Option<Arc<dense::DFA<Vec<u32>>>>,
    prefix: SmallVec<[u8; 8]>,
    /// Made when it is needed for the first time; it was compiled before, so it can be.
    regex: OnceLock<Option<Regex>>,
}

/// Why a text is no pattern, for diagnostics: what is wrong and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    #[error("{0} is not in RE2, which keeps matching linear: {1}")]
    NotRe2(&'static str, &'static str),
    #[error("malformed regular expression: {0}")]
    Malformed(String),
    #[error("the regular expression needs more than {SIZE_LIMIT} bytes: use smaller repetitions")]
    TooLarge,
    /// Of a replacement: `\7` where the pattern has fewer groups.
    #[error("the replacement names group {group}, the pattern has {groups}")]
    NoGroup { group: usize, groups: usize },
    #[error("`\\` in a replacement is followed by a digit or another `\\`")]
    Replacement,
}

impl Pattern {
    /// Of whole values: `b` does not match `abc`.
    ///
    /// # Errors
    /// The pattern is malformed, has what RE2 has not, or is too large.
    pub fn new(source: &str) -> Result<Self, PatternError> {
        // Anchored by hand because the crate has no full match.
        let translated = format!(r"\A(?:{})\z", translate(source)?);
        let regex = compile(&translated)?;
        let table = table(&translated);
        // Kept only where it will be used often.
        let regex = if table.is_none() { OnceLock::from(Some(regex)) } else { OnceLock::new() };
        let prefix = table.as_ref().map(|table| prefix(table)).unwrap_or_default();
        Ok(Self { source: source.into(), translated: translated.into(), table, prefix, regex })
    }

    /// For replacing every match inside a text: not anchored.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn new_unanchored(source: &str) -> Result<Self, PatternError> {
        let translated = translate(source)?;
        let regex = OnceLock::from(Some(compile(&translated)?));
        let prefix = SmallVec::new();
        Ok(Self { source: source.into(), translated: translated.into(), table: None, prefix, regex })
    }

    fn regex(&self) -> Option<&Regex> {
        self.regex.get_or_init(|| compile(&self.translated).ok()).as_ref()
    }

    pub fn is_match(&self, text: &str) -> bool {
        if let Some(table) = self.table.as_ref().filter(|_| text.is_ascii())
            && let Ok(found) = table.try_search_fwd(&Input::new(text).anchored(Anchored::Yes).earliest(true))
        {
            return found.is_some();
        }
        self.regex().is_some_and(|regex| regex.is_match(text))
    }

    pub fn source(&self) -> &str {
        &self.source
    }

    /// What every text that matches begins with; at most 8 bytes of it, and only where it is easily found.
    pub fn prefix(&self) -> &[u8] {
        &self.prefix
    }

    /// Whether [`Self::replace_all`] can use `replacement` (RE2 `CheckRewriteString`).
    ///
    /// # Errors
    /// A group that is not there, or a stray backslash.
    pub fn check_replacement(&self, replacement: &str) -> Result<(), PatternError> {
        let groups = self.regex().map_or(0, |regex| regex.captures_len() - 1);
        for part in Parts(replacement) {
            match part {
                Part::Group(group) if group > groups => return Err(PatternError::NoGroup { group, groups }),
                Part::Stray => return Err(PatternError::Replacement),
                _ => {}
            }
        }
        Ok(())
    }

    /// Every match replaced; `\0` is the match, `\1` to `\9` are its groups, `\\` is a backslash (RE2 `GlobalReplace`).
    pub fn replace_all<'t>(&self, text: &'t str, replacement: &str) -> Cow<'t, str> {
        let Some(regex) = self.regex() else { return Cow::Borrowed(text) };
        regex.replace_all(text, |captures: &regex::Captures<'_>| {
            let mut replaced = String::new();
            for part in Parts(replacement) {
                match part {
                    Part::Text(text) => replaced.push_str(text),
                    Part::Group(group) => replaced.push_str(captures.get(group).map_or("", |m| m.as_str())),
                    Part::Stray => replaced.push('\\'),
                }
            }
            replaced
        })
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.translated == other.translated
    }
}

impl Serialize for Pattern {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.source)
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Pattern").field(&self.source).finish()
    }
}

fn compile(translated: &str) -> Result<Regex, PatternError> {
    RegexBuilder::new(translated).size_limit(SIZE_LIMIT).build().map_err(|error| match error {
        regex::Error::CompiledTooBig(_) => PatternError::TooLarge,
        error => PatternError::Malformed(last_line(&error.to_string()).to_owned()),
    })
}

/// The pattern for ASCII texts, where all classes are of bytes; `None` where it has others, or grows too large.
fn table(translated: &str) -> Option<Arc<dense::DFA<Vec<u32>>>> {
    // `(?i)ſ` matches `s`.
    if !translated.is_ascii() {
        return None;
    }
    let config = dense::Config::new()
        .start_kind(StartKind::Anchored)
        .dfa_size_limit(Some(TABLE_LIMIT))
        .determinize_size_limit(Some(16 * TABLE_LIMIT));
    let syntax = syntax::Config::new().unicode(false).utf8(false);
    dense::Builder::new().configure(config).syntax(syntax).build(translated).ok().map(Arc::new)
}

/// The bytes that lead from the start to where the table knows more than one way on. It may be trusted for other texts
/// than ASCII too: whatever else they could begin with would be a byte from 0x80 on, and so another way.
fn prefix(table: &dense::DFA<Vec<u32>>) -> SmallVec<[u8; 8]> {
    let mut prefix = SmallVec::new();
    let Ok(mut state) = table.start_state(&start::Config::new().anchored(Anchored::Yes)) else { return prefix };
    // Where a text may end it need not go on.
    while prefix.len() < prefix.inline_size() && !table.is_match_state(table.next_eoi_state(state)) {
        let ways = (0..=u8::MAX).map(|byte| (byte, table.next_state(state, byte)));
        let mut ways = ways.filter(|(_, next)| !table.is_dead_state(*next));
        let (Some((byte, next)), None) = (ways.next(), ways.next()) else { break };
        prefix.push(byte);
        state = next;
    }
    prefix
}

enum Part<'r> {
    Text(&'r str),
    Group(usize),
    /// A backslash before something else.
    Stray,
}

/// The parts of a replacement.
struct Parts<'r>(&'r str);

impl<'r> Iterator for Parts<'r> {
    type Item = Part<'r>;

    fn next(&mut self) -> Option<Part<'r>> {
        let text = self.0;
        let Some(rest) = text.strip_prefix('\\') else {
            let (part, rest) = text.split_at(text.find('\\').unwrap_or(text.len()));
            self.0 = rest;
            return (!part.is_empty()).then_some(Part::Text(part));
        };
        let (part, used) = match rest.as_bytes().first() {
            Some(digit @ b'0'..=b'9') => (Part::Group(usize::from(digit - b'0')), 1),
            Some(b'\\') => (Part::Text("\\"), 1),
            _ => (Part::Stray, 0),
        };
        self.0 = rest.get(used..).unwrap_or_default();
        Some(part)
    }
}

fn last_line(text: &str) -> &str {
    text.lines().last().unwrap_or(text).trim().trim_start_matches("error: ")
}

/// RE2's text in the `regex` crate's words; see the table above.
fn translate(source: &str) -> Result<String, PatternError> {
    let mut out = String::with_capacity(source.len() + 16);
    let mut rest = source;
    while let Some(c) = rest.chars().next() {
        let after = rest.get(c.len_utf8()..).unwrap_or_default();
        rest = match c {
            '\\' => escape(after, false, &mut out)?,
            '[' => class(after, &mut out)?,
            '(' => group(after, &mut out)?,
            '{' if !is_repetition(after) => {
                out.push_str(r"\{");
                after
            }
            _ => {
                out.push(c);
                after
            }
        };
    }
    Ok(out)
}

/// After a backslash; returns what follows the escape.
fn escape<'s>(rest: &'s str, in_class: bool, out: &mut String) -> Result<&'s str, PatternError> {
    let Some(c) = rest.chars().next() else { return Err(PatternError::Malformed("trailing `\\`".to_owned())) };
    let after = rest.get(c.len_utf8()..).unwrap_or_default();
    let (class, negated) = match c {
        'd' | 'D' => ("0-9", c == 'D'),
        'w' | 'W' => ("0-9A-Za-z_", c == 'W'),
        's' | 'S' => (r"\t\n\f\r ", c == 'S'),
        'b' if !in_class => {
            out.push_str(r"(?-u:\b)");
            return if after.starts_with('{') { out_of_re2(r"`\b{…}`", r"use `\b`") } else { Ok(after) };
        }
        'B' if !in_class => {
            out.push_str(r"(?-u:\B)");
            return Ok(after);
        }
        'Q' if !in_class => {
            let (quoted, after) = after.split_once(r"\E").unwrap_or((after, ""));
            out.push_str(&regex::escape(quoted));
            return Ok(after);
        }
        'C' => return out_of_re2(r"`\C`", "it would split characters; use `.`"),
        '1'..='7' | '0' => {
            // Octal: `\0`, `\012`, `\141`; a single non-zero digit would be a back-reference.
            let digits = rest.bytes().take(3).take_while(|b| (b'0'..=b'7').contains(b)).count();
            if digits == 1 && c != '0' {
                return out_of_re2("a back-reference", "spell the repeated part out");
            }
            let (digits, after) = rest.split_at_checked(digits).unwrap_or((rest, ""));
            // At most three octal digits are at most 0x1ff.
            let code = u32::from_str_radix(digits, 8).unwrap_or_default();
            out.push_str(&format!(r"\x{{{code:x}}}"));
            return Ok(after);
        }
        _ if c.is_ascii_punctuation() => {
            out.push_str(&regex::escape(c.encode_utf8(&mut [0; 4])));
            return Ok(after);
        }
        _ => {
            out.push('\\');
            out.push(c);
            // The name of a class or a code stays as it is: `\p{Greek}`, `\x{263a}`.
            let named = matches!(c, 'p' | 'P' | 'x') && after.starts_with('{');
            let end = after.find('}').filter(|_| named).map_or(0, |at| at + 1);
            let (name, after) = after.split_at_checked(end).unwrap_or(("", after));
            out.push_str(name);
            return Ok(after);
        }
    };
    match (in_class, negated) {
        (true, false) => out.push_str(class),
        (_, true) => out.push_str(&format!("[^{class}]")),
        (false, false) => out.push_str(&format!("[{class}]")),
    }
    Ok(after)
}

/// After `[`; returns what follows the class.
fn class<'s>(source: &'s str, out: &mut String) -> Result<&'s str, PatternError> {
    out.push('[');
    let mut rest = source;
    if let Some(after) = rest.strip_prefix('^') {
        out.push('^');
        rest = after;
    }
    let mut first = true;
    while let Some(c) = rest.chars().next() {
        let after = rest.get(c.len_utf8()..).unwrap_or_default();
        rest = match c {
            ']' if !first => {
                out.push(']');
                return Ok(after);
            }
            '\\' => escape(after, true, out)?,
            '[' if after.starts_with(':') && after.contains(":]") => {
                let end = after.find(":]").map_or(after.len(), |at| at + 2);
                let (name, after) = after.split_at(end);
                out.push('[');
                out.push_str(name);
                after
            }
            // What means something to the crate and nothing to RE2.
            '[' | ']' | '&' | '~' => {
                out.push('\\');
                out.push(c);
                after
            }
            // A second `-` in a row is a plain one.
            '-' if out.ends_with('-') => {
                out.push_str(r"\-");
                after
            }
            _ => {
                out.push(c);
                after
            }
        };
        first = false;
    }
    Err(PatternError::Malformed("unclosed `[`".to_owned()))
}

/// After `(`: names what RE2 does not have.
fn group<'s>(rest: &'s str, out: &mut String) -> Result<&'s str, PatternError> {
    out.push('(');
    let Some(special) = rest.strip_prefix('?') else { return Ok(rest) };
    if ["=", "!", "<=", "<!"].iter().any(|look| special.starts_with(look)) {
        return out_of_re2("look-around", "match the whole value, or use `withoutHeaders`");
    }
    let flags = special.find([')', ':']).and_then(|end| special.get(..end)).unwrap_or_default();
    if !flags.starts_with(['P', '<']) && !flags.bytes().all(|b| matches!(b, b'i' | b'm' | b's' | b'U' | b'-')) {
        return out_of_re2("a flag other than `i`, `m`, `s`, `U`", "leave it out");
    }
    Ok(rest)
}

fn out_of_re2<T>(what: &'static str, instead: &'static str) -> Result<T, PatternError> {
    Err(PatternError::NotRe2(what, instead))
}

/// `2}`, `2,}` or `2,3}`.
fn is_repetition(after: &str) -> bool {
    let Some((inside, _)) = after.split_once('}') else { return false };
    let (least, most) = inside.split_once(',').unwrap_or((inside, ""));
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    !least.is_empty() && digits(least) && digits(most)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_as_re2_does() {
        for (pattern, text, want) in [
            ("b", "abc", false),
            ("a|b", "b", true),
            (r"\d+", "٣", false),
            (r"\d+", "42", true),
            (r"\w", "é", false),
            (r"[\w.]+", "a_9.", true),
            (r"[\D]", "x", true),
            (r"[^\d]", "x", true),
            (r"\s", "\u{b}", false),
            (r"a\Q.*\E", "a.*", true),
            (r"a\Q.*\E", "abc", false),
            (r"[[]", "[", true),
            (r"[a&&b]", "&", true),
            (r"[+--]", ",", true),
            (r"[]a]", "]", true),
            (r"[^]a]", "b", true),
            (r"[[:alpha:]]+", "abc", true),
            (r"\<a\>", "<a>", true),
            (r"a{", "a{", true),
            (r"a{,2}", "a{,2}", true),
            (r"a{2,3}", "aaa", true),
            (r"\141", "a", true),
            (r"(?i)abc", "ABC", true),
            (r"(?P<n>a)(?<m>b)", "ab", true),
            (r"foo\b.*", "foo bar", true),
            (r".", "\n", false),
            (r"a\/b\-c", "a/b-c", true),
            (r"\x{41}[\x{42}]\pL", "ABC", true),
            (r"^(.*?;)?(user=burr)(;.*)?$", "a=1; user=burr", false),
            (r"^(.*?;)?(user=burr)(;.*)?$", "a=1;user=burr;b", true),
        ] {
            let compiled = Pattern::new(pattern).unwrap_or_else(|error| panic!("{pattern}: {error}"));
            assert_eq!(compiled.is_match(text), want, "{pattern} on {text}: {}", compiled.translated);
        }
    }

    #[test]
    fn says_what_is_not_in_re2() {
        for (pattern, word) in [
            ("(?=a)", "look-around"),
            ("(?<!a)b", "look-around"),
            (r"(a)\1", "back-reference"),
            (r"\C", "split"),
            ("(?x)a", "flag"),
            ("a(", "unclosed"),
            ("[a", "unclosed"),
            (r"a\", "trailing"),
            ("((a{500}){500}){500}", "smaller"),
        ] {
            let error = Pattern::new(pattern).expect_err(pattern).to_string();
            assert!(error.contains(word), "{pattern}: {error}");
        }
    }

    #[test]
    fn replaces_with_groups() {
        let pattern = Pattern::new_unanchored("/service/([^/]+)(/.*)$").unwrap();
        assert_eq!(pattern.replace_all("/service/a/b/c", r"\2/instance/\1"), "/b/c/instance/a");
        assert_eq!(pattern.replace_all("/other", r"\1"), "/other");
        assert_eq!(pattern.replace_all("/service/a/b", r"\0\\$1"), r"/service/a/b\$1");
        assert_eq!(pattern.check_replacement(r"\3"), Err(PatternError::NoGroup { group: 3, groups: 2 }));
        assert_eq!(pattern.check_replacement(r"\x"), Err(PatternError::Replacement));
        assert_eq!(pattern.check_replacement(r"\2\\$1"), Ok(()));
        let every = Pattern::new_unanchored("a*").unwrap();
        assert_eq!(every.replace_all("baac", "x"), "xbxcx", "RE2 does not match empty right behind a match");
    }

    #[test]
    fn both_ways_agree() {
        for (pattern, text) in [
            ("^(.*?;)?(user=burr)(;.*)?$", "session=1;user=burr"),
            (r"/v[0-9]+(/.*)?", "/v12/x"),
            (r"(?i)/Straße", "/straße"),
            (r"\bfoo\b.*", "foo bar"),
            (r"[^/]+", "a/b"),
            ("", ""),
            (".", "é"),
        ] {
            let pattern = Pattern::new(pattern).unwrap();
            let want = compile(&pattern.translated).unwrap().is_match(text);
            assert_eq!(pattern.is_match(text), want, "{pattern:?} {text}");
        }
        assert!(Pattern::new("^(.*?;)?(user=burr)(;.*)?$").unwrap().table.unwrap().memory_usage() < 8 << 10);
        assert!(Pattern::new(r"\p{Greek}").unwrap().is_match("λ"), "no class of bytes: the other way");
    }

    #[test]
    fn prefixes() {
        for (pattern, prefix) in [
            (r"client/2[.].*", "client/2"),
            ("abc", "abc"),
            ("ab?c", "a"),
            ("ab(cd|ce)", "abc"),
            ("^ab$", "ab"),
            ("a*", ""),
            ("a|b", ""),
            ("(?i)1k", "1"),
            (".*a", ""),
            ("", ""),
            ("ä", ""),
            ("a[^b]", "a"),
        ] {
            assert_eq!(Pattern::new(pattern).unwrap().prefix(), prefix.as_bytes(), "{pattern}");
        }
    }

    proptest! {
        #[test]
        fn what_matches_begins_with_the_prefix(
            source in r"(\(\?i\))?([a-ckſ.]|\[\^?[a-ck]{1,3}\]|\([a-ck|]{0,4}\)|\\[dwsbWDS]|[*+?^]){0,6}",
            text in "([a-c]|[kſKK1]){0,8}",
        ) {
            if let Ok(pattern) = Pattern::new(&source) {
                let crates = compile(&pattern.translated).unwrap();
                prop_assert!(!crates.is_match(&text) || text.as_bytes().starts_with(pattern.prefix()));
            }
        }

        #[test]
        fn the_table_agrees_with_the_crate(
            source in r"([a-c.]|\[\^?[a-c]{1,3}\]|\([a-c|]{0,4}\)|\\[dwsb]|[*+?$^]|\{1,2\}){0,8}",
            text in "[a-c0-9 ]{0,8}",
        ) {
            if let Ok(pattern) = Pattern::new(&source) {
                prop_assert_eq!(pattern.is_match(&text), compile(&pattern.translated).unwrap().is_match(&text));
            }
        }

        #[test]
        fn any_text_compiles_or_says_why(source in r"\PC{0,24}", text in r"\PC{0,16}", with in r"\PC{0,8}") {
            if let Ok(pattern) = Pattern::new_unanchored(&source) {
                let _ = (pattern.is_match(&text), pattern.replace_all(&text, &with));
            }
        }

        #[test]
        fn syntax_of_all_kinds(source in r"[a\\\[\]\(\)\{\}?*+|^$:=!<>&~QEdswbBDWSC,0-9-]{0,16}", text in "[ab0-9 ]{0,8}") {
            if let Ok(pattern) = Pattern::new(&source) {
                let _ = pattern.is_match(&text);
            }
        }
    }
}
