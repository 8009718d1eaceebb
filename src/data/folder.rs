//! Detects the data set in a folder, with its number of examples, classes and pixels.

use std::fs;
use std::path::Path;

use super::classes::Classes;
use super::picture::Header;
use super::records::{self, open_files};
use super::sets::{self, DATA_SETS, DataSet, IMAGENET};
use super::tfrecord::labelled::Labelled;
use super::tfrecord::{Indexed, Options, Reader};
use super::{Error, Result, Split, parallel};
use crate::threads::cores;

/// File with the list of classes next to the shards, in label order.
pub const CLASSES_FILE: &str = "classes.txt";
/// Maximum bytes of records to scan for labels if there is no list of classes. Beyond it the classes are unknown.
const LABELLED_BYTES: u64 = 8 << 30;
/// Number of pictures sampled for the typical size.
const MEASURED: usize = 256;

/// Contents of a data folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contents {
    /// The data set.
    pub set: &'static DataSet,
    /// Number of classes: the number of lines of `classes.txt`, else the largest label of the training records plus
    /// one. `None` if there is no list and the records are too many to scan.
    pub classes: Option<usize>,
    /// Numbers of training and evaluation examples; 0 without files.
    pub examples: [usize; 2],
    /// Height and width of a picture; for TFRecords the median of the first ones.
    pub size: [usize; 2],
}

/// Detects a folder's data set by its file names.
///
/// # Errors
/// A path that is not a folder, or a folder without files of a known data set. The message names other known files
/// found.
pub fn detect(dir: &Path) -> Result<&'static DataSet> {
    if !dir.is_dir() {
        return Err(match dir.exists() {
            true => foreign(dir).unwrap_or_else(|| Error::NoDataSet { path: dir.into() }),
            false => Error::NoFolder { path: dir.into() },
        });
    }
    let is_in = |set: &&DataSet| match set.reader {
        sets::Reader::Memory { is_in, .. } => is_in(dir),
        sets::Reader::Records => records::are_in(dir),
        sets::Reader::Arrays | sets::Reader::Generated(_) => false,
    };
    let found = DATA_SETS.into_iter().rev().find(is_in);
    found.ok_or_else(|| foreign(dir).unwrap_or_else(|| Error::NoDataSet { path: dir.into() }))
}

/// Refuses a missing folder, and one that holds only files of other programs.
///
/// # Errors
/// As [`detect`], if no file of a known data set is there.
pub fn check(dir: &Path, set: &DataSet) -> Result<()> {
    match (set.is_generated(), detect(dir)) {
        (false, Err(error @ (Error::NoFolder { .. } | Error::Foreign { .. }))) => Err(error),
        // The reader of each set names the files it expects.
        (_, _) => Ok(()),
    }
}

/// Inspects a folder.
///
/// # Errors
/// As [`detect`], files that cannot be read or are damaged, and evaluation labels beyond those of the training
/// records.
pub fn contents(dir: &Path) -> Result<Contents> {
    let set = detect(dir)?;
    match set.reader {
        sets::Reader::Memory { load, size, .. } => {
            whole(set, size, |split| load(dir, split).map(|examples| examples.len()))
        }
        sets::Reader::Records => record_contents(dir),
        sets::Reader::Arrays | sets::Reader::Generated(_) => whole(set, [0; 2], |_| Ok(0)),
    }
}

fn whole(set: &'static DataSet, size: [usize; 2], count: impl Fn(Split) -> Result<usize>) -> Result<Contents> {
    let count = |split| match count(split) {
        Ok(examples) => Ok(examples),
        Err(Error::Missing { .. }) => Ok(0),
        Err(error) => Err(error),
    };
    Ok(Contents {
        set,
        classes: Some(set.classes),
        examples: [count(Split::Train)?, count(Split::Test)?],
        size,
    })
}

fn record_contents(dir: &Path) -> Result<Contents> {
    // The reader of the examples reports skipped records.
    let open = |split| match open_files(dir, split, usize::MAX, |_| ()) {
        Ok((files, _)) => Ok(files),
        Err(Error::TfRecord(super::tfrecord::Error::NoShards { .. }) | Error::NoRecords { .. }) => Ok(vec![]),
        Err(error) => Err(error),
    };
    let files = [open(Split::Train)?, open(Split::Test)?];
    let examples = files.each_ref().map(|files| files.iter().map(Indexed::len).sum());
    Ok(Contents {
        set: &IMAGENET,
        classes: classes(dir, &files)?,
        examples,
        size: typical_size(&files),
    })
}

/// Reads the list of classes of `dir`, if there is one.
///
/// # Errors
/// A list that cannot be read.
pub fn listed_classes(dir: &Path) -> Result<Option<Classes>> {
    let path = dir.join(CLASSES_FILE);
    match path.exists() {
        true => Classes::read(&path).map(Some),
        false => Ok(None),
    }
}

fn classes(dir: &Path, files: &[Vec<Indexed>; 2]) -> Result<Option<usize>> {
    let listed = listed_classes(dir)?.map(|classes| classes.len());
    if listed.is_some() || files.iter().flatten().map(Indexed::stored_bytes).sum::<u64>() > LABELLED_BYTES {
        return Ok(listed);
    }
    let [train, test] = [most_classes(&files[0])?, most_classes(&files[1])?];
    if train > 0 && test > train {
        return Err(Error::UnknownClass {
            path: dir.into(),
            split: "validation",
            found: test as i64,
            expected: format!("at most {train}, as in the training set"),
        });
    }
    Ok(Some(train.max(test)).filter(|classes| *classes > 0))
}

/// Number of classes: one more than the largest label of the sound records.
fn most_classes(files: &[Indexed]) -> Result<usize> {
    let most = |i: usize| -> Result<usize> {
        let mut reader = Reader::open(files[i].path(), Options::default())?;
        let mut most = 0;
        loop {
            match reader.next() {
                Ok(None) => return Ok(most),
                Ok(Some(record)) => {
                    let labelled = record.example().ok().and_then(|example| Labelled::of(&example).ok());
                    let count = labelled.and_then(|found| usize::try_from(found.label - found.first + 1).ok());
                    most = most.max(count.unwrap_or(0));
                }
                // The reader of the examples refuses or skips damaged records.
                Err(_) => {}
            }
        }
    };
    Ok(parallel::map(files.len(), cores(), most)?
        .into_iter()
        .max()
        .unwrap_or(0))
}

fn typical_size(files: &[Vec<Indexed>; 2]) -> [usize; 2] {
    let mut buffer = vec![];
    let mut sizes = vec![];
    for (file, index) in files
        .iter()
        .flatten()
        .flat_map(|file| (0..file.len()).map(move |i| (file, i)))
    {
        if sizes.len() == MEASURED {
            break;
        }
        let header = file.read(index, &mut buffer).ok().and_then(|record| {
            let example = record.example().ok()?;
            Header::of(Labelled::of(&example).ok()?.encoded).ok()
        });
        sizes.extend(header.map(|header| [header.height, header.width]));
    }
    [0, 1].map(|axis| {
        let mut lengths: Vec<usize> = sizes.iter().map(|size| size[axis]).collect();
        lengths.sort_unstable();
        lengths.get(lengths.len() / 2).copied().unwrap_or(0)
    })
}

/// Files of other programs: a test on the lower-case name, a description, and advice.
type Foreign = (fn(&str) -> bool, &'static str, &'static str);

const FOREIGN: [Foreign; 9] = [
    (
        |name| name.starts_with("emnist-") && name.contains("-ubyte"),
        "EMNIST",
        "rename the files of its sets of ten classes (emnist-mnist-*, emnist-digits-*) to train-images-idx3-ubyte, \
         t10k-images-idx3-ubyte and so on; sets with letters have more classes than MNIST and are not read",
    ),
    (
        |name| name.ends_with(".npz"),
        "a NumPy archive, as Keras keeps MNIST in",
        "expected MNIST's own IDX files; `rigl-xla data fetch mnist` brings them",
    ),
    (
        |name| {
            [
                "cifar-10-batches-py",
                "cifar-10-python.tar.gz",
                "batches.meta",
                "data_batch_1",
            ]
            .contains(&name)
        },
        "the Python version of CIFAR-10",
        "expected the binary version: unpack cifar-10-binary.tar.gz and give its folder",
    ),
    (
        |name| name == "cifar-10-binary.tar.gz",
        "CIFAR-10, packed",
        "unpack it with `tar -xzf cifar-10-binary.tar.gz` and give the folder",
    ),
    (
        |name| name.starts_with("cifar-100") || name == "train.bin" || name == "fine_label_names.txt",
        "CIFAR-100",
        "only CIFAR-10's binary files are read; of pictures in folders of classes `rigl-xla data prepare` makes a data set",
    ),
    (
        |name| name.ends_with(".parquet") || name.ends_with(".arrow"),
        "Parquet or Arrow files",
        "save the pictures in folders of classes, of which `rigl-xla data prepare` makes a data set",
    ),
    (
        |name| name.ends_with(".tar") || name.ends_with(".tar.gz") || name.ends_with(".tgz") || name.ends_with(".zip"),
        "an archive",
        "unpack it; of tar files or folders of pictures `rigl-xla data prepare OUT --train PATH` makes a data set",
    ),
    (
        |name| [".jpeg", ".jpg", ".png"].iter().any(|end| name.ends_with(end)),
        "pictures",
        "make TFRecord shards of them with `rigl-xla data prepare OUT --train DIR --validation DIR` and give OUT",
    ),
    (
        |name| {
            [".tfrecord", ".tfrecords", ".record", ".tfrec"]
                .iter()
                .any(|end| name.ends_with(end))
                || name.contains("-of-")
        },
        "TFRecord files whose names do not say what they are for",
        "name them train-00000-of-00001, validation-00000-of-00001 and so on, or put them into folders train and validation",
    ),
];

/// Describes a path that only other programs read, by its own name or by the names of the files in it and its
/// subfolders.
fn foreign(path: &Path) -> Option<Error> {
    let names = |dir: &Path| -> Vec<_> {
        let entries = fs::read_dir(dir).into_iter().flatten().flatten().take(10_000);
        entries.map(|entry| entry.path()).collect()
    };
    let inside = names(path);
    let below = inside
        .iter()
        .take(100)
        .filter(|path| path.is_dir())
        .flat_map(|dir| names(dir));
    let all: Vec<_> = [path.to_path_buf()]
        .into_iter()
        .filter(|path| !path.is_dir())
        .chain(inside.iter().cloned())
        .chain(below)
        .collect();
    let lower: Vec<String> = all
        .iter()
        .filter_map(|path| Some(path.file_name()?.to_str()?.to_ascii_lowercase()))
        .collect();
    let found = FOREIGN.iter().find(|(is, _, _)| lower.iter().any(|name| is(name)));
    found.map(|&(_, what, advice)| Error::Foreign {
        path: path.into(),
        what,
        advice,
    })
}
