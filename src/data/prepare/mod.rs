//! Data sets to TFRecord shards: folders or tar files of pictures with the features of the official ImageNet files, MNIST and
//! CIFAR-10 with those of TensorFlow's smaller data sets.
//!
//! Pictures are stored as they are, byte by byte: nothing is encoded anew, and format, colours and channels say what is
//! there. Which picture is in which shard, and where, is a function of their names and the seed, not of the threads.

mod error;
mod pixels;
mod source;
mod tar_end;

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde::Serialize;

pub use error::{Error, Result};

use super::budget::RECORDS;
use super::classes::{self, Classes};
use super::folder::CLASSES_FILE;
use super::picture::{Format, Header};
use super::tfrecord::labelled::Picture;
use super::tfrecord::{self, Compression, shards};
use super::{Split, parallel, picture};
use crate::checkpoint::atomic;
use crate::rng::{BoundedRng, stream};
use crate::scratch::Scratch;
use crate::signals::Stop;
use pixels::Pixels;
use source::Source;

/// Pictures in a shard, about, where the number of shards is not given; the official files have 1251.
const PICTURES_PER_SHARD: usize = 1251;
/// Shards of the official training and validation sets, and the most that are made without being asked for.
const OFFICIAL_SHARDS: [usize; 2] = [1024, 128];

/// What to prepare.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// Folder or tar file with the training pictures.
    pub train: Option<PathBuf>,
    /// Likewise, what is only evaluated on.
    pub validation: Option<PathBuf>,
    /// A list with the class of each validation picture, in the order of their names.
    pub validation_classes: Option<PathBuf>,
    /// A list of classes in the order of their labels; that of their names if not given.
    pub synsets: Option<PathBuf>,
    /// Numbers of training and validation shards; by the numbers of pictures if not given.
    pub shards: [Option<usize>; 2],
    /// What the order of the pictures is drawn from.
    pub seed: u64,
    /// Whether shards are gzipped.
    pub gzip: bool,
    /// Pictures that may be left out because they cannot be read or are none.
    pub skip_corrupt: usize,
}

/// What will be written.
#[derive(Debug)]
pub struct Plan {
    sets: Vec<Set>,
    classes: Classes,
    compression: Compression,
    skip_corrupt: usize,
}

/// A part of the data set.
#[derive(Debug)]
struct Set {
    name: &'static str,
    path: PathBuf,
    examples: Examples,
    /// Indices of examples in the order in which they are written.
    order: Vec<usize>,
    shards: usize,
}

#[derive(Debug)]
enum Examples {
    /// Pictures, each with its class's place.
    Files(Source, Vec<usize>),
    Pixels(Pixels),
}

/// What was written of a part.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Written {
    /// `train`, `validation`, or of the smaller data sets `test`.
    pub set: &'static str,
    /// Number of examples.
    pub examples: usize,
    /// Number of classes.
    pub classes: usize,
    /// Number of files.
    pub shards: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Files of the source that are no pictures by their names, and were left out.
    pub left_out: usize,
    /// Their names.
    pub left_out_names: Vec<String>,
    /// Classes without a picture here.
    pub empty_classes: Vec<String>,
    /// Pictures that were skipped, with the reasons.
    pub skipped: Vec<String>,
}

impl Plan {
    /// Finds the pictures and their classes, and draws their order.
    ///
    /// # Errors
    /// Sources or lists that cannot be read, have no pictures, or do not fit together.
    pub fn new(request: &Request) -> Result<Self> {
        let listed = request.synsets.as_deref().map(Classes::read).transpose()?;
        let mut classes = listed.unwrap_or_default();
        let parts = [
            (Split::Train, &request.train, None),
            (Split::Test, &request.validation, request.validation_classes.as_deref()),
        ];
        let mut sets = vec![];
        for (split, path, list) in parts {
            let Some(path) = path else { continue };
            let part = examples(path, split, list, &mut classes)?;
            let asked = request.shards[split as usize];
            sets.push(Set::new(
                part,
                path,
                asked.ok_or(OFFICIAL_SHARDS[split as usize]),
                request.seed,
            )?);
        }
        let compression = if request.gzip {
            Compression::Gzip
        } else {
            Compression::None
        };
        Ok(Plan {
            sets,
            classes,
            compression,
            skip_corrupt: request.skip_corrupt,
        })
    }

    /// Number of examples in all.
    pub fn examples(&self) -> usize {
        self.sets.iter().map(|set| set.order.len()).sum()
    }

    /// Writes the set into a new folder, which appears with the last file; calls `done` after each example, from any thread.
    ///
    /// # Errors
    /// More pictures that cannot be read or are none than may be skipped, all of them, what the system reports, a folder that
    /// exists, or that `stop` was asked for. Nothing is left behind then.
    pub fn write(&self, output: &Path, threads: usize, stop: &Stop, done: &(dyn Fn() + Sync)) -> Result<Vec<Written>> {
        if output.symlink_metadata().is_ok() {
            return Err(Error::Exists { path: output.into() });
        }
        stop.heed("stopping: removing what was written");
        let parent = atomic::folder(output);
        let staging = staging(output).map_err(Error::io(parent))?;
        let skipped = Mutex::default();
        let write = |set: &Set| self.write_set(set, staging.path(), threads, stop, &skipped, done);
        let written = self.sets.iter().map(write).collect::<Result<_>>()?;
        if !self.classes.is_empty() {
            let path = staging.path().join(CLASSES_FILE);
            let text = self.classes.to_text();
            atomic::write(&path, |out| out.write_all(text.as_bytes())).map_err(Error::io(&path))?;
        }
        staging.rename(output).map_err(Error::io(output))?;
        atomic::sync_folder(parent).map_err(Error::io(parent))?;
        Ok(written)
    }

    fn write_set(
        &self,
        set: &Set,
        dir: &Path,
        threads: usize,
        stop: &Stop,
        skipped: &Mutex<Vec<(&'static str, String)>>,
        done: &(dyn Fn() + Sync),
    ) -> Result<Written> {
        let shard = |index: usize| {
            let path = dir.join(shards::name(set.name, index, set.shards));
            let [start, end] = [index, index + 1].map(|i| i * set.order.len() / set.shards);
            let mut failed = None;
            let written = tfrecord::write(&path, self.compression, |out| {
                for &example in &set.order[start..end] {
                    let record = match stop.signal().is_some() {
                        true => Err(Error::Stopped),
                        false => set.examples.record(example, &self.classes),
                    };
                    if let Err(error) = &record
                        && error.is_of_one_picture()
                        && self.skips(set.name, error, skipped)
                    {
                        done();
                        continue;
                    }
                    // The error goes around the writer, which knows only those of the system.
                    let record = record.map_err(|e| {
                        failed = Some(e);
                        io::Error::other("no record")
                    })?;
                    out.write(&record)?;
                    done();
                }
                Ok(())
            });
            match failed {
                Some(error) => Err(error),
                None => written.map_err(Error::from),
            }?;
            fs::metadata(&path).map(|file| file.len()).map_err(Error::io(&path))
        };
        let bytes = parallel::map(set.shards, threads, shard)?.iter().sum();
        let all = skipped.lock().unwrap_or_else(PoisonError::into_inner);
        let mut skipped: Vec<String> = all
            .iter()
            .filter(|(name, _)| *name == set.name)
            .map(|(_, what)| what.clone())
            .collect();
        skipped.sort();
        let count = set.order.len();
        if skipped.len() == count {
            let path = set.path.clone();
            return Err(Error::AllSkipped { path, count });
        }
        let (classes, left_out_names, empty_classes) = match &set.examples {
            Examples::Files(source, places) => {
                let full: BTreeSet<usize> = places.iter().copied().collect();
                let empty = (0..self.classes.len()).filter(|place| !full.contains(place));
                let empty = empty.map(|place| self.classes.get(place).0.to_owned()).collect();
                (self.classes.len(), source.others.clone(), empty)
            }
            Examples::Pixels(pixels) => (pixels.set.classes, vec![], vec![]),
        };
        Ok(Written {
            set: set.name,
            examples: count - skipped.len(),
            classes,
            shards: set.shards,
            bytes,
            left_out: left_out_names.len(),
            left_out_names,
            empty_classes,
            skipped,
        })
    }

    /// Whether one more picture may be skipped, which is then noted in `skipped`.
    fn skips(&self, set: &'static str, error: &Error, skipped: &Mutex<Vec<(&'static str, String)>>) -> bool {
        let mut skipped = skipped.lock().unwrap_or_else(PoisonError::into_inner);
        let may = skipped.len() < self.skip_corrupt;
        if may {
            skipped.push((set, error.to_string()));
        }
        may
    }
}

/// The hidden folder that becomes `output`, beside it.
fn staging(output: &Path) -> io::Result<Scratch> {
    let name = output.file_name().ok_or(io::ErrorKind::AlreadyExists)?;
    let parent = atomic::folder(output);
    fs::create_dir_all(parent)?;
    let prefix = [".".as_ref(), name, ".".as_ref()].join(OsStr::new(""));
    // As for any folder that is created; the umask is applied to it.
    Scratch::new(parent, &prefix, 0o777)
}

/// The examples of a part with its name. `classes` are set by the first part where they are not known.
fn examples(path: &Path, split: Split, list: Option<&Path>, classes: &mut Classes) -> Result<(&'static str, Examples)> {
    let names = match split {
        Split::Train => ["train", "train"],
        Split::Test => ["test", "validation"],
    };
    if let Some(pixels) = Pixels::open(path, split)? {
        return Ok((names[0], Examples::Pixels(pixels)));
    }
    let mut source = Source::open(path)?;
    if let Some(list) = list {
        let lines = classes::lines(list)?;
        let mut without: Vec<_> = source.found.iter_mut().filter(|found| found.class.is_none()).collect();
        if lines.len() != without.len() {
            return Err(Error::ClassCount {
                path: list.into(),
                found: lines.len(),
                pictures: path.into(),
                expected: without.len(),
            });
        }
        for (found, line) in without.iter_mut().zip(lines) {
            found.class = Some(line);
        }
    }
    if classes.is_empty() {
        let of_pictures = source.found.iter().filter_map(|found| found.class.as_deref());
        *classes = Classes::sorted(of_pictures.chain(source.classes.iter().map(String::as_str)));
    }
    let place = |found: &source::Found| {
        let class = found.class.as_ref().ok_or_else(|| Error::NoClass {
            path: path.into(),
            name: found.name.clone(),
        })?;
        classes.find(class).ok_or_else(|| Error::UnknownClass {
            path: path.into(),
            name: found.name.clone(),
            class: class.clone(),
            known: classes.len(),
            first: classes.get(0).0.to_owned(),
        })
    };
    let places = source.found.iter().map(place).collect::<Result<_>>()?;
    Ok((names[1], Examples::Files(source, places)))
}

impl Set {
    /// `shards`: how many are asked for, or how many there may be.
    fn new(
        (name, examples): (&'static str, Examples),
        path: &Path,
        shards: std::result::Result<usize, usize>,
        seed: u64,
    ) -> Result<Self> {
        let pictures = examples.len();
        let shards = shards.unwrap_or_else(|most| pictures.div_ceil(PICTURES_PER_SHARD).min(most));
        if shards == 0 || shards > pictures {
            return Err(Error::Shards {
                set: name,
                shards,
                pictures,
            });
        }
        let mut order: Vec<usize> = (0..pictures).collect();
        stream(seed, "prepare", name, 0).shuffle(&mut order);
        Ok(Set {
            name,
            path: path.into(),
            examples,
            order,
            shards,
        })
    }
}

impl Examples {
    fn len(&self) -> usize {
        match self {
            Examples::Files(source, _) => source.found.len(),
            Examples::Pixels(pixels) => pixels.set.len(),
        }
    }

    /// The record of example `index`.
    fn record(&self, index: usize, classes: &Classes) -> Result<Vec<u8>> {
        match self {
            Examples::Files(source, places) => {
                let found = &source.found[index];
                let _permit = RECORDS.take(source.bytes(found));
                let encoded = source.read(found)?;
                let bad = |problem: picture::Error| Error::Picture {
                    name: source.name(found),
                    problem: problem.to_string(),
                };
                let (format, header) = (Format::of(&encoded).map_err(bad)?, Header::of(&encoded).map_err(bad)?);
                let (synset, text) = classes.get(places[index]);
                let picture = Picture {
                    encoded: &encoded,
                    format: match format {
                        Format::Jpeg => "JPEG",
                        Format::Png => "PNG",
                    },
                    height: header.height,
                    width: header.width,
                    channels: header.components,
                    filename: &found.name,
                    label: places[index] as i64 + 1,
                    synset,
                    text,
                };
                Ok(picture.encode())
            }
            Examples::Pixels(pixels) => pixels.record(index),
        }
    }
}
