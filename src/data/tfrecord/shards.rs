//! Finds the TFRecord files of a data set in a folder by common naming schemes.
//!
//! | name | example |
//! | --- | --- |
//! | official, numbered from 0 or from 1 | `train-00000-of-01024` |
//! | with a prefix, a suffix or both | `coco_train.record-00000-of-00010`, `cars_train_00000-of-00010.tfrecord.gz` |
//! | one file, or files numbered without a count | `train.tfrecord`, `train-3.tfrecord` |
//! | in a folder with the split's name | `train/part-00000.tfrecord`, `validation/data-00000-of-00001` |

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::{Error, Result};

/// Suffixes of TFRecord files, optionally followed by `.gz`.
const SUFFIXES: [&str; 5] = [".tfrecords", ".tfrecord", ".records", ".record", ".tfrec"];
/// Minimum digits of `NNNNN-of-NNNNN` in a name without one of the suffixes.
const BARE_DIGITS: usize = 5;

/// Role of a set of files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Training.
    Train,
    /// Evaluation during or after training.
    Validation,
    /// A test set, used for evaluation if there is no validation set.
    Test,
}

impl Role {
    /// Every role with the words that name it; the first word is the official one.
    const WORDS: [(Role, &'static [&'static str]); 3] = [
        (Role::Train, &["train", "training"]),
        (Role::Validation, &["validation", "valid", "val", "eval"]),
        (Role::Test, &["test", "testing"]),
    ];

    /// The official name.
    pub fn name(self) -> &'static str {
        match self {
            Role::Train => "train",
            Role::Validation => "validation",
            Role::Test => "test",
        }
    }

    /// The role named by the last matching word of a name: `coco_val2017` is validation.
    fn of(name: &str) -> Option<Self> {
        let lower = name.to_ascii_lowercase();
        let role = |word: &str| {
            let word = word.trim_end_matches(|c: char| c.is_ascii_digit());
            let found = Self::WORDS.iter().find(|(_, words)| words.contains(&word));
            found.map(|(role, _)| *role)
        };
        lower.rsplit(['-', '_', '.', ' ']).find_map(role)
    }
}

/// The files of one set, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shards {
    /// Common part of the file names, or the split's folder: `train`, `coco_train`.
    pub name: String,
    /// The role in the name, if any.
    pub role: Option<Role>,
    /// The files, by number.
    pub files: Vec<PathBuf>,
    /// Ignored files with names like a shard's: indices, temporary copies.
    pub ignored: Vec<PathBuf>,
}

/// The official name of shard `index` of `count`.
pub fn name(set: &str, index: usize, count: usize) -> String {
    format!("{set}-{index:05}-of-{count:05}")
}

/// Components of a file name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Named<'a> {
    /// Text before the numbers, without a suffix.
    stem: &'a str,
    index: Option<usize>,
    count: Option<usize>,
}

impl<'a> Named<'a> {
    /// `None` if this is not the name of a TFRecord file.
    fn parse(name: &'a str) -> Option<Self> {
        let name = without_suffix(name, &[".gz"]).unwrap_or(name);
        let body = without_suffix(name, &SUFFIXES);
        let least = if body.is_some() { 1 } else { BARE_DIGITS };
        let number = |digits: &str| {
            let right = digits.len() >= least && digits.bytes().all(|digit| digit.is_ascii_digit());
            right.then(|| digits.parse::<usize>().ok()).flatten()
        };
        let whole = body.unwrap_or(name);
        let counted = whole.rsplit_once("-of-").and_then(|(rest, count)| {
            let (stem, index) = split_digits(rest);
            Some((stem, number(index)?, number(count)?))
        });
        let (stem, index, count) = match (counted, body) {
            (Some((stem, index, count)), _) => (stem, Some(index), Some(count)),
            (None, Some(body)) => {
                let (stem, digits) = split_digits(body);
                (stem, number(digits), None)
            }
            (None, None) => return None,
        };
        let stem = stem.trim_end_matches(['-', '_', '.']);
        let stem = without_suffix(stem, &SUFFIXES).unwrap_or(stem);
        (body.is_some() || !stem.is_empty()).then_some(Named { stem, index, count })
    }
}

fn without_suffix<'a>(name: &'a str, suffixes: &[&str]) -> Option<&'a str> {
    suffixes.iter().find_map(|suffix| {
        let (start, end) = name.split_at_checked(name.len().checked_sub(suffix.len())?)?;
        end.eq_ignore_ascii_case(suffix).then_some(start)
    })
}

/// Splits a name before its trailing digits.
fn split_digits(name: &str) -> (&str, &str) {
    let stem = name.trim_end_matches(|c: char| c.is_ascii_digit());
    name.split_at(stem.len())
}

/// Finds the files of the first of `roles` that has any, in `dir` or its subfolders named after a split.
///
/// # Errors
/// A folder that cannot be read or has no such files, a missing shard, two files with the same number, or files of
/// several sets for one role.
pub fn find(dir: &Path, roles: &[Role]) -> Result<Shards> {
    let all = list(dir)?;
    for role in roles {
        let mut sets = all.iter().filter(|(key, _)| key.role == Some(*role));
        let Some((key, files)) = sets.next() else { continue };
        if let Some((_, other)) = sets.next() {
            return Err(Error::MixedShards {
                dir: dir.into(),
                first: files.first(),
                second: other.first(),
            });
        }
        return files.complete(dir, key);
    }
    let unnamed = all.values().map(Files::first).collect();
    Err(Error::NoShards {
        dir: dir.into(),
        expected: roles.first().map_or("train", |role| role.name()),
        found: unnamed,
    })
}

/// Whether files exist for any of the roles, complete or not.
///
/// # Errors
/// A folder that cannot be read.
pub fn exist(dir: &Path, roles: &[Role]) -> Result<bool> {
    let has_role = |key: &Key| key.role.is_some_and(|role| roles.contains(&role));
    Ok(list(dir)?.keys().any(has_role))
}

/// Finds every set in `dir` and its subfolders named after a split. Returns none if no file name matches.
///
/// # Errors
/// A folder that cannot be read, a missing shard, or two files with the same number.
pub fn find_all(dir: &Path) -> Result<Vec<Shards>> {
    let sets = list(dir)?;
    sets.iter().map(|(key, files)| files.complete(dir, key)).collect()
}

/// Key of a set, shared by its files. Sorted by role, then by name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    role: Option<Role>,
    folder: PathBuf,
    stem: String,
    count: Option<usize>,
}

#[derive(Debug, Default)]
struct Files {
    /// Files by index, and files without a number.
    files: BTreeMap<Option<usize>, Vec<PathBuf>>,
    ignored: Vec<PathBuf>,
}

/// Groups every TFRecord file by its set.
fn list(dir: &Path) -> Result<BTreeMap<Key, Files>> {
    let mut sets = BTreeMap::new();
    add(dir, None, &mut sets)?;
    sets.retain(|_, files: &mut Files| !files.files.is_empty());
    Ok(sets)
}

fn add(dir: &Path, folder_role: Option<Role>, sets: &mut BTreeMap<Key, Files>) -> Result<()> {
    for entry in fs::read_dir(dir).map_err(Error::io(dir))? {
        let path = entry.map_err(Error::io(dir))?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
            continue;
        };
        if name.starts_with('.') {
            continue;
        }
        if path.is_dir() {
            let is_split = Role::WORDS.iter().find(|(_, words)| words.contains(&name));
            if let (None, Some((role, _))) = (folder_role, is_split) {
                add(&path, Some(*role), sets)?;
            }
            continue;
        }
        let key = |named: Named| Key {
            role: Role::of(named.stem).or(folder_role),
            folder: dir.into(),
            stem: named.stem.to_owned(),
            count: named.count,
        };
        if let Some(named) = Named::parse(name) {
            let files = sets.entry(key(named)).or_default();
            files.files.entry(named.index).or_default().push(path.clone());
        } else if let Some(named) = name.rsplit_once('.').and_then(|(base, _)| Named::parse(base)) {
            sets.entry(key(named)).or_default().ignored.push(path.clone());
        }
    }
    Ok(())
}

impl Files {
    /// Name of the first file, for messages.
    fn first(&self) -> String {
        let first = self.files.values().flatten().min();
        first.map_or(String::new(), |path| file_name(path))
    }

    /// Returns the files in order if all are present. A set with a count starts at 0 or 1. A set without a count is
    /// checked for gaps only if it starts there, because other numbers may count something else.
    fn complete(&self, dir: &Path, key: &Key) -> Result<Shards> {
        if let Some([first, second, ..]) = self.files.values().find(|files| files.len() > 1).map(Vec::as_slice) {
            return Err(Error::SameShard {
                dir: dir.into(),
                first: file_name(first),
                second: file_name(second),
            });
        }
        let indices: Vec<usize> = self.files.keys().copied().flatten().collect();
        if let (Some(first), Some(second)) = (self.files.get(&None), self.files.values().nth(1)) {
            let [first, second] =
                [first, second].map(|files| files.first().map_or(String::new(), |path| file_name(path)));
            return Err(Error::MixedShards {
                dir: dir.into(),
                first,
                second,
            });
        }
        let start = match key.count {
            Some(count) => usize::from(indices.contains(&count) && !indices.contains(&0)),
            None => indices.first().copied().unwrap_or(0),
        };
        let end = match key.count {
            Some(count) => start.saturating_add(count),
            None if start <= 1 => indices.last().map_or(start, |last| last.saturating_add(1)),
            None => start,
        };
        if let Some(missing) = (start..end)
            .zip(indices.iter().map(Some).chain(std::iter::repeat(None)))
            .find_map(|(wanted, found)| (found != Some(&wanted)).then_some(wanted))
            && !indices.is_empty()
        {
            return Err(Error::MissingShard {
                dir: dir.into(),
                missing: match key.count {
                    Some(count) => name(&key.stem, missing, count),
                    None => format!("{missing} of '{}'", key.stem),
                },
                found: indices.len(),
                count: end - start,
            });
        }
        if let Some(beyond) = indices.last().filter(|last| key.count.is_some() && **last >= end) {
            return Err(Error::BeyondCount {
                dir: dir.into(),
                index: *beyond,
                stem: key.stem.clone(),
                count: end - start,
            });
        }
        Ok(Shards {
            name: self.set_name(key),
            role: key.role,
            files: self.files.values().flatten().cloned().collect(),
            ignored: self.ignored.clone(),
        })
    }

    fn set_name(&self, key: &Key) -> String {
        match (key.stem.as_str(), key.role) {
            ("", Some(role)) => role.name().to_owned(),
            (stem, Some(role)) if Role::of(stem).is_none() => format!("{}/{stem}", role.name()),
            (stem, _) => stem.to_owned(),
        }
    }
}

/// A file's name.
pub(crate) fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn folder(names: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for name in names {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, []).unwrap();
        }
        dir
    }

    fn names(shards: &Shards) -> Vec<&str> {
        let names = shards
            .files
            .iter()
            .map(|path| path.file_name().unwrap().to_str().unwrap());
        names.collect()
    }

    fn complaint(files: &[&str], role: Role) -> String {
        let dir = folder(files);
        let message = find(dir.path(), &[role]).unwrap_err().to_string();
        message.replace(&format!("{}: ", dir.path().display()), "")
    }

    #[test]
    fn accepts_common_file_names() {
        assert_eq!(name("train", 7, 1024), "train-00007-of-01024");
        for (train, validation) in [
            ("train-00000-of-00001", "validation-00000-of-00001"),
            ("train-00001-of-00001", "validation-00001-of-00001"),
            ("train-00000-of-00001.tfrecord", "validation-00000-of-00001.tfrecord"),
            ("train-0-of-1.tfrecords.gz", "valid-0-of-1.tfrecords.gz"),
            ("train.tfrecord", "validation.tfrecord"),
            ("TRAIN.TFRECORD", "Val.TFRecord"),
            ("train.tfrec", "eval.tfrec"),
            ("train-00000-of-00001.gz", "val-00000-of-00001.gz"),
            (
                "vehicles_train_00000-of-00001.tfrecord",
                "vehicles_validation_00000-of-00001.tfrecord",
            ),
            ("coco_train.record-00000-of-00001", "coco_val.record-00000-of-00001"),
            ("coco_train2017.record", "coco_val2017.record"),
            (
                "imagenet2012-train.tfrecord-00000-of-00001",
                "imagenet2012-validation.tfrecord-00000-of-00001",
            ),
            ("train/part-r-00000.tfrecord", "validation/part-r-00000.tfrecord"),
            ("train/train-00000-of-00001", "val/validation-00000-of-00001"),
            ("training/data-00000-of-00001", "valid/data-00000-of-00001"),
        ] {
            let dir = folder(&[train, validation, "classes.txt", "labels.csv"]);
            let last = |name: &str| name.rsplit('/').next().unwrap().to_owned();
            for (role, wanted) in [(Role::Train, train), (Role::Validation, validation)] {
                let found = find(dir.path(), &[role]).unwrap();
                assert_eq!(names(&found), [last(wanted)], "{wanted}");
            }
            assert_eq!(find_all(dir.path()).unwrap().len(), 2);
            assert!(!exist(dir.path(), &[Role::Test]).unwrap());
        }
        let other = [
            "train",
            "train-7-of-8",
            "-00000-of-00001",
            "train-00000-of-0000x",
            "train.txt",
        ];
        let dir = folder(&other);
        assert!(find_all(dir.path()).unwrap().is_empty());
    }

    #[test]
    fn returns_shards_in_order_and_complete() {
        let dir = folder(&[
            "train-00002-of-00003",
            "train-00000-of-00003",
            "train-00001-of-00003",
            "test-2.tfrecord",
            "test-10.tfrecord",
            "test-1.tfrecord",
        ]);
        let found = find(dir.path(), &[Role::Train]).unwrap();
        assert_eq!(names(&found), (0..3).map(|i| name("train", i, 3)).collect::<Vec<_>>());
        let message = find(dir.path(), &[Role::Validation, Role::Test])
            .unwrap_err()
            .to_string();
        assert!(message.contains("shard 3 of 'test' is missing"), "{message}");
        for (files, missing) in [
            (&["train-00000-of-00002"][..], "train-00001-of-00002"),
            (&["train-00001-of-00002"], "train-00000-of-00002"),
            (
                &["train-00001-of-00003", "train-00003-of-00003"],
                "train-00002-of-00003",
            ),
            (&["train-1.tfrecord", "train-3.tfrecord"], "2 of 'train'"),
        ] {
            let message = complaint(files, Role::Train);
            assert!(
                message.starts_with(&format!("shard {missing} is missing")),
                "{files:?}: {message}"
            );
        }
        // These numbers do not count files.
        let dir = folder(&["train-798.tfrec", "train-783.tfrec"]);
        assert_eq!(find(dir.path(), &[Role::Train]).unwrap().files.len(), 2);
    }

    #[test]
    fn rejects_sets_that_do_not_fit_together() {
        let message = complaint(&["a-train-00000-of-00001", "train-00000-of-00002"], Role::Train);
        assert!(message.contains("are of different sets"), "{message}");
        let message = complaint(&["train.tfrecord", "train/x.tfrecord"], Role::Train);
        assert!(message.contains("are of different sets"), "{message}");
        let message = complaint(&["train-00000-of-00001", "train-00000-of-00001.gz"], Role::Train);
        assert!(message.contains("are the same shard"), "{message}");
        let message = complaint(&["train-00000-of-00001", "train-00003-of-00001"], Role::Train);
        assert!(message.contains("number 3 of 'train'"), "{message}");
        let message = complaint(&["cats-00000-of-00001"], Role::Train);
        assert!(message.contains("found cats-00000-of-00001"), "{message}");
    }

    #[test]
    fn lists_files_that_are_named_after_shards() {
        let dir = folder(&[
            "train-00000-of-00001",
            "train-00000-of-00001.idx",
            "train-00000-of-00001.gstmp",
        ]);
        let found = find(dir.path(), &[Role::Train]).unwrap();
        assert_eq!((found.files.len(), found.ignored.len()), (1, 2));
    }
}
