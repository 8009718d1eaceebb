//! Converts data sets to TFRecord shards: folders or tar files of pictures with the features of the official ImageNet
//! files, MNIST and CIFAR-10 with those of TensorFlow's small data sets.
//!
//! Pictures are stored unchanged, without re-encoding; the format, colour space and channel features describe them. The
//! assignment of pictures to shards depends only on their names and the seed, not on threads.

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
use crate::scratch::Scratch;
use crate::signals::Stop;
use pixels::PixelSet;
use source::Source;
use sparse::rng::{BoundedRng, stream};

/// Default pictures per shard, approximately; the official files have 1251.
const PICTURES_PER_SHARD: usize = 1251;
/// Number of shards of the official training and validation sets, and the maximum by default.
const OFFICIAL_SHARDS: [usize; 2] = [1024, 128];

/// Options of a preparation.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// Folder or tar file with the training pictures.
    pub train: Option<PathBuf>,
    /// Folder or tar file with the validation pictures.
    pub validation: Option<PathBuf>,
    /// List with the class of each validation picture, in the order of the pictures' names.
    pub validation_classes: Option<PathBuf>,
    /// List of classes in label order; by default the classes are sorted by name.
    pub synsets: Option<PathBuf>,
    /// Numbers of training and validation shards; by default derived from the numbers of pictures.
    pub shards: [Option<usize>; 2],
    /// Seed of the shuffle.
    pub seed: u64,
    /// Whether shards are gzipped.
    pub gzip: bool,
    /// Maximum number of unreadable or invalid pictures to skip.
    pub skip_corrupt: usize,
}

/// The files to be written.
#[derive(Debug)]
pub struct Plan {
    sets: Vec<Set>,
    classes: Classes,
    compression: Compression,
    skip_corrupt: usize,
}

/// A split of the data set.
#[derive(Debug)]
struct Set {
    name: &'static str,
    path: PathBuf,
    examples: Examples,
    /// Example indices in writing order.
    order: Vec<usize>,
    shards: usize,
}

#[derive(Debug)]
enum Examples {
    /// Pictures, each with the index of its class.
    Files(Source, Vec<usize>),
    Pixels(PixelSet),
}

/// Summary of a written split.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Written {
    /// `train`, `validation`, or `test` for the small data sets.
    pub set: &'static str,
    /// Number of examples.
    pub examples: usize,
    /// Number of classes.
    pub classes: usize,
    /// Number of files.
    pub shards: usize,
    /// Total bytes of the files.
    pub bytes: u64,
    /// Number of source files ignored because their names are not those of pictures.
    pub left_out: usize,
    /// Their names.
    pub left_out_names: Vec<String>,
    /// Classes without a picture in this split.
    pub empty_classes: Vec<String>,
    /// Skipped pictures, with reasons.
    pub skipped: Vec<String>,
}

impl Plan {
    /// Finds the pictures and their classes, and shuffles them.
    ///
    /// # Errors
    /// Sources or lists that cannot be read, have no pictures, or contradict each other.
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

    /// Total number of examples.
    pub fn examples(&self) -> usize {
        self.sets.iter().map(|set| set.order.len()).sum()
    }

    /// Writes the set to a new folder, which appears once complete. Calls `done` after each example, from any thread.
    ///
    /// # Errors
    /// More unreadable pictures than may be skipped, or only such pictures; I/O errors; an existing folder; or a stop
    /// request. Nothing is left behind.
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
                    // The error bypasses the writer, whose errors are I/O errors only.
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

    /// Records a skipped picture, unless the limit is reached.
    fn skips(&self, set: &'static str, error: &Error, skipped: &Mutex<Vec<(&'static str, String)>>) -> bool {
        let mut skipped = skipped.lock().unwrap_or_else(PoisonError::into_inner);
        let may = skipped.len() < self.skip_corrupt;
        if may {
            skipped.push((set, error.to_string()));
        }
        may
    }
}

/// The hidden folder next to `output` that is renamed to it at the end.
fn staging(output: &Path) -> io::Result<Scratch> {
    let name = output.file_name().ok_or(io::ErrorKind::AlreadyExists)?;
    let parent = atomic::folder(output);
    fs::create_dir_all(parent)?;
    let prefix = [".".as_ref(), name, ".".as_ref()].join(OsStr::new(""));
    // Default permissions of a new folder; the umask applies.
    Scratch::new(parent, &prefix, 0o777)
}

/// Returns the examples of a split and its name. The first split sets `classes` if they are unknown.
fn examples(path: &Path, split: Split, list: Option<&Path>, classes: &mut Classes) -> Result<(&'static str, Examples)> {
    let names = match split {
        Split::Train => ["train", "train"],
        Split::Test => ["test", "validation"],
    };
    if let Some(pixels) = PixelSet::open(path, split)? {
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
    /// `shards`: the requested number, or the maximum.
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

    /// Encodes example `index` as a record.
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
