//! Which label a class has.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::path::Path;

use super::{Error, Result};

/// The classes in the order of their labels, which count from 1.
#[derive(Clone, Debug, Default)]
pub struct Classes {
    /// Each with what it is in words, if that is known.
    named: Vec<(String, String)>,
    index: HashMap<String, usize>,
}

impl Classes {
    /// In the order of their names, as the official list of ImageNet's synsets is.
    pub(super) fn sorted<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        let names: BTreeSet<&str> = names.into_iter().collect();
        let mut classes = Classes::default();
        for name in names {
            classes.push(name, "");
        }
        classes
    }

    /// In the order of a file's lines: a synset, and after a space what it is in words.
    ///
    /// # Errors
    /// A file that cannot be read, an empty line, or a synset that is listed twice.
    pub(super) fn read(path: &Path) -> Result<Self> {
        let mut classes = Classes::default();
        for (i, line) in lines(path)?.iter().enumerate() {
            let (name, text) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
            if !classes.push(name, text.trim()) {
                return Err(Error::List {
                    path: path.into(),
                    line: i + 1,
                    problem: "a class that is listed before",
                });
            }
        }
        Ok(classes)
    }

    /// False if it is there already.
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

    /// Place of a class, from 0.
    pub(super) fn find(&self, name: &str) -> Option<usize> {
        self.index.get(name).copied()
    }

    /// Name and words of the class in a place.
    pub(super) fn get(&self, place: usize) -> (&str, &str) {
        self.named.get(place).map_or(("", ""), |(name, text)| (name, text))
    }

    /// The file that [`Classes::read`] reads.
    pub(super) fn to_text(&self) -> String {
        let lines = self.named.iter().map(|(name, text)| format!("{name} {text}"));
        lines.map(|line| format!("{}\n", line.trim_end())).collect()
    }
}

/// The lines of a list, none of which may be empty.
pub(super) fn lines(path: &Path) -> Result<Vec<String>> {
    let text = fs::read_to_string(path).map_err(Error::io(path))?;
    let lines: Vec<String> = text.lines().map(|line| line.trim().to_owned()).collect();
    match lines.iter().position(String::is_empty) {
        None => Ok(lines),
        Some(at) => Err(Error::List {
            path: path.into(),
            line: at + 1,
            problem: "it is empty, expected the name of a class",
        }),
    }
}
