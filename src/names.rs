//! Names that are not known, with suggestions.

use crate::report::escape;

/// The start of a line that lists names, which the command line fits to the terminal.
pub(crate) const LIST: &str = "  known: ";

/// A name that is not one of the known ones.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown {what} '{}'{}\n{LIST}{}", escape::name(found), did_you_mean(near), known.join(", "))]
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
    /// With suggestions from the known names.
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

/// The three candidates at most that `name` is a part of; without any, those the fewest edits away, if these are at most a third
/// of their letters, or two. Letter case is ignored.
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

/// The three candidates most similar to `name`, however different they are.
pub(crate) fn closest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let mut all: Vec<(f64, &str)> = candidates
        .into_iter()
        .map(|candidate| (strsim::normalized_damerau_levenshtein(name, candidate), candidate))
        .collect();
    all.sort_by(|a, b| b.0.total_cmp(&a.0));
    all.into_iter()
        .take(3)
        .map(|(_, candidate)| candidate.to_owned())
        .collect()
}

/// The end of a sentence that names the closest candidates.
pub(crate) fn closest_names(near: &[String]) -> String {
    match near {
        [] => String::new(),
        near => format!("; the closest names are {}", near.join(", ")),
    }
}

/// The end of a sentence about an unknown name.
pub(crate) fn did_you_mean(near: &[String]) -> String {
    let quoted: Vec<String> = near.iter().map(|name| format!("'{name}'")).collect();
    match quoted.split_last() {
        None => String::new(),
        Some((only, [])) => format!("; did you mean {only}?"),
        Some((last, others)) => format!("; did you mean {} or {last}?", others.join(", ")),
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
            Unknown::new("method", "xyzzy", methods).to_string(),
            "unknown method 'xyzzy'\n  known: dense, rigl, rigl-itop, set"
        );
        assert_eq!(nearest("itop", methods), ["rigl-itop"]);
        assert_eq!(nearest("v5", ["v4", "v5e", "v5p"]), ["v5e", "v5p"]);
        assert_eq!(nearest("", methods), [""; 0]);
    }
}
