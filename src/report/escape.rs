//! Escapes control characters in external names wherever they are printed or written.

use sparse::names::controls_terminal;
use std::borrow::Cow;
use std::fmt::Write;
use std::path::Path;

/// Escapes every control character of a name as in a Rust string (`\n`, `\u{1b}`), so that it stays on one line.
pub fn name(text: &str) -> Cow<'_, str> {
    escaped(text, controls_terminal, |out, c| out.extend(c.escape_default()))
}

/// As [`name`], for a path.
pub fn path(path: &Path) -> String {
    name(&path.to_string_lossy()).into_owned()
}

/// As [`name`], for text of several lines: newlines and tabs stay. Escape names before inserting them in the text,
/// because their newlines would look like the text's own.
pub fn text(text: &str) -> Cow<'_, str> {
    escaped(
        text,
        |c| controls_terminal(c) && !matches!(c, '\n' | '\t'),
        |out, c| out.extend(c.escape_default()),
    )
}

/// Writes control characters in strings of serialised JSON as `\u001b`, without changing its meaning.
pub fn json(text: &str) -> Cow<'_, str> {
    let hex = |out: &mut String, c: char| {
        let mut units = [0; 2];
        for unit in c.encode_utf16(&mut units) {
            // Writing to a string cannot fail.
            let _ = write!(out, "\\u{unit:04x}");
        }
    };
    escaped(text, |c| controls_terminal(c) && c != '\n', hex)
}

fn escaped(text: &str, hidden: impl Fn(char) -> bool, write: impl Fn(&mut String, char)) -> Cow<'_, str> {
    let Some(first) = text.find(&hidden) else {
        return Cow::Borrowed(text);
    };
    let (clean, rest) = text.split_at(first);
    let mut out = clean.to_owned();
    for c in rest.chars() {
        match hidden(c) {
            true => write(&mut out, c),
            false => out.push(c),
        }
    }
    Cow::Owned(out)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn escapes_what_terminals_act_on() {
        assert!(matches!(name("größe 漢字 \u{301}"), Cow::Borrowed(_)));
        assert_eq!(name("a\u{1b}[31m\n\t\u{9b}\u{7f}"), "a\\u{1b}[31m\\n\\t\\u{9b}\\u{7f}");
        assert_eq!(name("\u{202e}gpj.\u{2066}\u{2028}"), "\\u{202e}gpj.\\u{2066}\\u{2028}");
        assert_eq!(text("a\n\tb\r\u{1b}"), "a\n\tb\\r\\u{1b}");
    }

    #[test]
    fn escaped_json_means_the_same() {
        let value = serde_json::json!({"a\u{1b}": "\u{85}\u{202e}\n\"\\"});
        let plain = value.to_string();
        let escaped = json(&plain);
        assert!(!escaped.contains(controls_terminal), "{escaped}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&escaped).unwrap(), value);
    }
}
