//! "Did you mean" suggestions for misspelled names.

use std::fmt;

/// Start of the line that lists all known names; a terminal program may wrap what follows.
pub const KNOWN_NAMES: &str = "  known: ";

/// A name that is not one of the known ones.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown {what} '{}'{}\n{KNOWN_NAMES}{}", Escaped(found), DidYouMean(near), known.join(", "))]
pub struct Unknown {
    /// The kind of thing named, e.g. `method`.
    pub what: &'static str,
    /// The name given.
    pub found: String,
    /// The known names closest to it, closest first; at most three.
    pub near: Vec<String>,
    /// All known names.
    pub known: Vec<String>,
}

impl Unknown {
    /// Finds suggestions among the known names.
    pub fn new<'a>(what: &'static str, found: &str, known: impl IntoIterator<Item = &'a str>) -> Self {
        let known: Vec<&str> = known.into_iter().collect();
        Unknown {
            what,
            found: found.to_owned(),
            near: nearest(found, known.iter().copied()),
            known: known.into_iter().map(str::to_owned).collect(),
        }
    }
}

/// Returns at most three candidates that contain `name`. If none does, returns those with the smallest edit distance, if it
/// is at most a third of their length, or two. Ignores case.
pub fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let name = name.to_lowercase();
    let mut near: Vec<(bool, usize, &str)> = candidates
        .into_iter()
        .filter_map(|candidate| {
            let letters = candidate.chars().count();
            let lower = candidate.to_lowercase();
            let part = lower.starts_with(&name) || (name.len() > 2 && lower.contains(&name));
            let edits = strsim::damerau_levenshtein(&name, &lower);
            let close = edits <= (letters / 3).max(2) && edits < letters;
            (!name.is_empty() && (part || close)).then_some((!part, edits, candidate))
        })
        .collect();
    near.sort();
    let best = near.first().map(|&(other, edits, _)| (other, edits));
    let kept = near
        .into_iter()
        .filter(|&(other, edits, _)| Some((other, edits)) == best || !other);
    kept.take(3).map(|(_, _, candidate)| candidate.to_owned()).collect()
}

/// Whether terminals act on a character: C0 and C1 controls, line and paragraph separators, and bidirectional marks.
pub fn controls_terminal(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// A name with its control characters escaped.
struct Escaped<'a>(&'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|c| match controls_terminal(c) {
            true => write!(f, "{}", c.escape_default()),
            false => write!(f, "{c}"),
        })
    }
}

/// `; did you mean 'a', 'b' or 'c'?`, or nothing without suggestions.
pub(crate) struct DidYouMean<'a>(pub(crate) &'a [String]);

impl fmt::Display for DidYouMean<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let quoted: Vec<String> = self.0.iter().map(|name| format!("'{name}'")).collect();
        match quoted.split_last() {
            None => Ok(()),
            Some((only, [])) => write!(f, "; did you mean {only}?"),
            Some((last, others)) => write!(f, "; did you mean {} or {last}?", others.join(", ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suggests_typos_and_parts_before_it_lists_all_names() {
        let methods = ["dense", "rigl", "rigl-itop", "set"];
        assert_eq!(
            Unknown::new("method", "Rigel", methods).to_string(),
            "unknown method 'Rigel'; did you mean 'rigl'?\n  known: dense, rigl, rigl-itop, set"
        );
        assert_eq!(
            Unknown::new("method", "xy\u{1b}zzy", methods).to_string(),
            "unknown method 'xy\\u{1b}zzy'\n  known: dense, rigl, rigl-itop, set"
        );
        assert_eq!(nearest("itop", methods), ["rigl-itop"]);
        assert_eq!(nearest("v5", ["v4", "v5e", "v5p"]), ["v5e", "v5p"]);
        assert_eq!(nearest("", methods), [""; 0]);
    }
}
