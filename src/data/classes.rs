//! Lists of classes: labels, names and descriptions.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use super::{Error, Result};
use crate::files;
use crate::report::escape;

/// Maximum size of a list: 16 MiB. ImageNet's longest, with a line per validation picture, has 0.5 MB.
const MAX_LIST_BYTES: u64 = 16 << 20;

/// Classes in label order.
#[derive(Clone, Debug, Default)]
pub struct Classes {
    /// Name and description; the description may be empty.
    named: Vec<(String, String)>,
    index: HashMap<String, usize>,
}

impl Classes {
    /// Classes sorted by name, like the official list of ImageNet's synsets.
    pub(super) fn sorted<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        let names: BTreeSet<&str> = names.into_iter().collect();
        let mut classes = Classes::default();
        for name in names {
            classes.push(name, "");
        }
        classes
    }

    /// Reads classes from a file, one per line: a name, then optionally a tab or a space and a description.
    ///
    /// # Errors
    /// A file that cannot be read or is not text, an empty line, or a class that appears twice.
    pub fn read(path: &Path) -> Result<Self> {
        let mut classes = Classes::default();
        for (i, line) in lines(path)?.iter().enumerate() {
            let parts = line.split_once('\t').or_else(|| line.split_once(char::is_whitespace));
            let (name, text) = parts.unwrap_or((line, ""));
            if !classes.push(name.trim(), text.trim()) {
                return Err(Error::Classes {
                    path: path.into(),
                    line: i + 1,
                    problem: "a class that is listed before",
                });
            }
        }
        Ok(classes)
    }

    /// Returns false for a duplicate.
    fn push(&mut self, name: &str, text: &str) -> bool {
        self.named.push((name.to_owned(), text.to_owned()));
        self.index.insert(name.to_owned(), self.named.len() - 1).is_none()
    }

    /// Number of classes.
    pub fn len(&self) -> usize {
        self.named.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.named.is_empty()
    }

    /// Index of a class, from 0.
    pub(super) fn find(&self, name: &str) -> Option<usize> {
        self.index.get(name).copied()
    }

    /// Name and description of the class at an index, from 0; both empty if out of range.
    pub fn get(&self, place: usize) -> (&str, &str) {
        self.named.get(place).map_or(("", ""), |(name, text)| (name, text))
    }

    /// Formats the list as [`Classes::read`] reads it.
    pub(super) fn to_text(&self) -> String {
        let line = |(name, text): &(String, String)| match (name.contains(char::is_whitespace), text.is_empty()) {
            (true, _) => format!("{name}\t{text}\n"),
            (false, true) => format!("{name}\n"),
            (false, false) => format!("{name} {text}\n"),
        };
        self.named.iter().map(line).collect()
    }
}

/// A class's name in lists and records: its folder's name, with control characters escaped so that they cannot end a
/// line.
pub(super) fn written(folder: &std::ffi::OsStr) -> String {
    let mut name = String::new();
    for chunk in folder.as_encoded_bytes().utf8_chunks() {
        name += &escape::name(&chunk.valid().replace('\\', "\\\\"));
        // The escaping keeps different folders distinct.
        name.extend(chunk.invalid().iter().map(|byte| format!("\\x{byte:02x}")));
    }
    name
}

/// Splits a list into lines. Only trailing lines may be empty.
///
/// # Errors
/// A file that cannot be read or is not text, or an empty line.
pub(super) fn lines(path: &Path) -> Result<Vec<String>> {
    let text = files::read_text(path, MAX_LIST_BYTES).map_err(Error::io(path))?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let lines: Vec<String> = text
        .trim_end_matches(['\n', '\r', ' '])
        .lines()
        .map(|line| line.trim_matches([' ', '\r']).to_owned())
        .collect();
    match lines.iter().position(|line| line.trim().is_empty()) {
        None => Ok(lines),
        Some(at) => Err(Error::Classes {
            path: path.into(),
            line: at + 1,
            problem: "it is empty, expected the name of a class",
        }),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn lists_read_back_as_they_were_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("classes.txt");
        let names = ["golden retriever", "n01440764", "x y"];
        let mut classes = Classes::sorted(names);
        classes.named[2].1 = "tench, Tinca tinca".to_owned();
        fs::write(&path, classes.to_text()).unwrap();
        let read = Classes::read(&path).unwrap();
        assert_eq!(read.named, classes.named);
        assert_eq!(read.find("golden retriever"), Some(0));
    }

    #[test]
    fn accepts_files_of_other_systems_and_rejects_gaps() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("list");
        fs::write(&path, "\u{feff}n01 tench\r\nn02\r\n\r\n\r\n").unwrap();
        let read = Classes::read(&path).unwrap();
        assert_eq!((read.len(), read.get(0)), (2, ("n01", "tench")));
        for (text, problem) in [
            ("a\n\nb\n", "line 2: it is empty"),
            ("a\nb\na\n", "line 3: a class that is listed before"),
        ] {
            fs::write(&path, text).unwrap();
            let message = Classes::read(&path).unwrap_err().to_string();
            assert!(message.contains(problem), "{message}");
        }
    }

    #[test]
    fn written_names_stay_on_their_line() {
        let escaped = written("a\nb\u{202e}".as_ref());
        assert_eq!(escaped, "a\\nb\\u{202e}");
        // A different name.
        assert_eq!(written("a\\nb".as_ref()), "a\\\\nb");
    }
}
