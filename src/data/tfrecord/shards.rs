//! Sets of files by the official names: `train-00000-of-01024` to `train-01023-of-01024`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::{Error, Result};

/// The name of shard `index` of `count`.
pub fn name(set: &str, index: usize, count: usize) -> String {
    format!("{set}-{index:05}-of-{count:05}")
}

/// The parts of a name as [`name`] makes: set, index, count. None if the index is not one of the count.
pub fn parse(name: &str) -> Option<(&str, usize, usize)> {
    let (rest, count) = name.rsplit_once("-of-")?;
    let (set, index) = rest.rsplit_once('-')?;
    let number = |digits: &str| {
        let right = digits.len() >= 5 && digits.bytes().all(|digit| digit.is_ascii_digit());
        right.then(|| digits.parse().ok()).flatten()
    };
    let (index, count) = (number(index)?, number(count)?);
    (!set.is_empty() && index < count).then_some((set, index, count))
}

/// The files of set `set` (`train`, `validation`) in `dir`, in the order of their numbers. What else is in the folder is
/// left alone. Sets whose names end as `imagenet2012-train.tfrecord` does are found by `train`, too.
///
/// # Errors
/// A folder that cannot be read, one without such a file, a missing shard, or files of several sets.
pub fn find(dir: &Path, set: &str) -> Result<Vec<PathBuf>> {
    let mut sets = list(dir)?;
    sets.retain(|(name, _), _| is_named(name, set));
    let mut sets = sets.into_iter();
    let Some(((name, count), files)) = sets.next() else {
        return Err(Error::NoShards {
            dir: dir.into(),
            expected: format!("{set}-NNNNN-of-NNNNN"),
        });
    };
    if let Some(((other, other_count), _)) = sets.next() {
        return Err(Error::MixedShards {
            dir: dir.into(),
            first: self::name(&name, 0, count),
            second: self::name(&other, 0, other_count),
        });
    }
    complete(dir, &name, count, files)
}

/// Every set in `dir` with its files, in the order of names; none if no file is named so.
///
/// # Errors
/// A folder that cannot be read, or a missing shard.
pub fn find_all(dir: &Path) -> Result<Vec<(String, Vec<PathBuf>)>> {
    let whole = |((name, count), files): ((String, usize), BTreeMap<usize, PathBuf>)| {
        let files = complete(dir, &name, count, files)?;
        Ok((name, files))
    };
    list(dir)?.into_iter().map(whole).collect()
}

/// Whether a set is the one asked for: `train`, or as data sets of several name it, `imagenet2012-train.tfrecord`.
fn is_named(name: &str, set: &str) -> bool {
    let stem = name.strip_suffix(".tfrecord").unwrap_or(name);
    name == set || stem == set || stem.strip_suffix(set).is_some_and(|before| before.ends_with('-'))
}

/// Files by set and count, and by index.
fn list(dir: &Path) -> Result<BTreeMap<(String, usize), BTreeMap<usize, PathBuf>>> {
    let mut sets: BTreeMap<_, BTreeMap<_, _>> = BTreeMap::new();
    for entry in fs::read_dir(dir).map_err(Error::io(dir))? {
        let entry = entry.map_err(Error::io(dir))?;
        if let Some((set, index, count)) = entry.file_name().to_str().and_then(parse) {
            sets.entry((set.to_owned(), count))
                .or_default()
                .insert(index, entry.path());
        }
    }
    Ok(sets)
}

/// The files, if all are there.
fn complete(dir: &Path, set: &str, count: usize, files: BTreeMap<usize, PathBuf>) -> Result<Vec<PathBuf>> {
    let found = files.len();
    match (0..count)
        .zip(files.keys().map(Some).chain(std::iter::repeat(None)))
        .find(|(i, key)| *key != Some(i))
    {
        None => Ok(files.into_values().collect()),
        Some((missing, _)) => Err(Error::MissingShard {
            dir: dir.into(),
            missing: name(set, missing, count),
            found,
            count,
        }),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn folder(names: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        names
            .iter()
            .for_each(|name| fs::write(dir.path().join(name), []).unwrap());
        dir
    }

    #[test]
    fn names_are_the_official_ones() {
        assert_eq!(name("train", 7, 1024), "train-00007-of-01024");
        assert_eq!(parse("train-00007-of-01024"), Some(("train", 7, 1024)));
        assert_eq!(parse("a-b.tfrecord-00000-of-00001"), Some(("a-b.tfrecord", 0, 1)));
        for other in [
            "train",
            "train-7-of-8",
            "train-00008-of-00008",
            "-00000-of-00001",
            "train-00000-of-0000x",
        ] {
            assert_eq!(parse(other), None, "{other}");
        }
    }

    #[test]
    fn sets_are_found_in_order_and_must_be_whole() {
        let dir = folder(&[
            "train-00002-of-00003",
            "train-00000-of-00003",
            "train-00001-of-00003",
            "validation-00001-of-00002",
            "labels.txt",
        ]);
        let names = |paths: Vec<PathBuf>| -> Vec<String> {
            let names = paths
                .iter()
                .map(|path| path.file_name().unwrap().to_str().unwrap().to_owned());
            names.collect()
        };
        let found = names(find(dir.path(), "train").unwrap());
        assert_eq!(found, (0..3).map(|i| name("train", i, 3)).collect::<Vec<_>>());
        let message = find(dir.path(), "validation").unwrap_err().to_string();
        assert!(
            message.ends_with("shard validation-00000-of-00002 is missing: 1 of 2 are there"),
            "{message}"
        );
        let message = find(dir.path(), "test").unwrap_err().to_string();
        assert!(message.ends_with("no file named test-NNNNN-of-NNNNN"), "{message}");
        assert!(matches!(find_all(dir.path()), Err(Error::MissingShard { .. })));
    }

    #[test]
    fn sets_with_longer_names_are_found_and_not_mixed() {
        let dir = folder(&[
            "imagenet2012-train.tfrecord-00000-of-00001",
            "imagenet2012-validation.tfrecord-00000-of-00001",
        ]);
        assert_eq!(find(dir.path(), "train").unwrap().len(), 1);
        assert_eq!(find_all(dir.path()).unwrap().len(), 2);
        fs::write(dir.path().join("train-00000-of-00002"), []).unwrap();
        let message = find(dir.path(), "train").unwrap_err().to_string();
        assert!(message.contains("are of different sets"), "{message}");
    }
}
