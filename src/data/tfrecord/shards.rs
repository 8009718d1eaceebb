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
