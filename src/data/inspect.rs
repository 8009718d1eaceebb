//! Inspects TFRecord files of pictures: counts, sizes, labels, formats and damage.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::classes::Classes;
use super::parallel;
use super::picture::{self, Dct, Format, Header, Image};
use super::tfrecord::example::{Feature, Kind};
use super::tfrecord::labelled::Labelled;
use super::tfrecord::shards::{self, Shards, file_name};
use super::tfrecord::{self, Options, Reader, Record, Result};

/// Maximum number of faults reported individually.
const TOLD: usize = 10;
/// Maximum characters shown of a value.
const SHOWN: usize = 40;

/// Options of an inspection.
#[derive(Clone, Copy, Debug)]
pub struct Depth {
    /// Number of files to read in parallel.
    pub threads: usize,
    /// Number of records per set whose features are listed.
    pub records: usize,
    /// Decode every picture, not only its header.
    pub decode: bool,
}

/// Contents of a set of files.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Set {
    /// `train`, `validation`, or a file name.
    pub name: String,
    /// Number of files, and their total bytes as records (uncompressed).
    pub files: usize,
    /// Names of files without records.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub empty_files: Vec<String>,
    /// Ignored files with names like a shard's.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ignored_files: Vec<String>,
    /// Names of the labels in use, if the folder lists its classes.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub classes: BTreeMap<i64, String>,
    /// Totals over the records.
    #[serde(flatten)]
    pub tally: Tally,
    /// The first records.
    pub first: Vec<Listed>,
}

/// Counts over records.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Tally {
    /// Records with correct checksums.
    pub records: u64,
    /// Bytes of their data.
    pub bytes: u64,
    /// Pictures with a readable header.
    pub pictures: u64,
    /// JPEG pictures.
    pub jpeg: u64,
    /// PNG pictures; the original stops at them.
    pub png: u64,
    /// Grey pictures.
    pub grey: u64,
    /// JPEGs with four components.
    pub cmyk: u64,
    /// Sizes of the encoded pictures, in bytes.
    pub picture_bytes: Range,
    /// Heights in pixels.
    pub height: Range,
    /// Widths in pixels.
    pub width: Range,
    /// Number of examples per label, as stored in the records.
    pub labels: BTreeMap<i64, u64>,
    /// Label of the first class, if any record has one.
    #[serde(skip)]
    pub first_label: Option<i64>,
    /// Records with a wrong checksum. A file that ends within a record counts as one.
    pub damaged_records: u64,
    /// Records that are not examples, or lack a picture or a label.
    pub no_examples: u64,
    /// Pictures that cannot be decoded, as far as decoding was requested.
    pub damaged_pictures: u64,
    /// The first faults, each with file and offset.
    pub damages: Vec<String>,
}

/// Minimum, maximum and sum of some numbers; all 0 if there are none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Range {
    /// Minimum.
    pub min: u64,
    /// Maximum.
    pub max: u64,
    /// Sum.
    pub sum: u64,
    #[serde(skip)]
    count: u64,
}

/// A listed record.
#[derive(Clone, Debug, Serialize)]
pub struct Listed {
    /// File name.
    pub file: String,
    /// Offset in the file.
    pub offset: u64,
    /// Bytes of its data.
    pub bytes: usize,
    /// Its features by key.
    pub features: BTreeMap<String, String>,
}

impl Range {
    fn merge(self, other: Range) -> Range {
        match (self.count, other.count) {
            (0, _) => other,
            (_, 0) => self,
            _ => Range {
                min: self.min.min(other.min),
                max: self.max.max(other.max),
                sum: self.sum.saturating_add(other.sum),
                count: self.count + other.count,
            },
        }
    }

    fn add(&mut self, value: usize) {
        let value = value as u64;
        *self = self.merge(Range {
            min: value,
            max: value,
            sum: value,
            count: 1,
        });
    }

    /// The mean; 0 if there are none.
    pub fn mean(&self) -> f64 {
        self.sum as f64 / self.count.max(1) as f64
    }
}

/// Finds the sets at `path`, a file or a folder of shards ([`shards`]), with their files in order.
///
/// # Errors
/// A path that cannot be read, a folder without shards, or a missing shard.
pub fn sets(path: &Path) -> Result<Vec<Shards>> {
    if !path.is_dir() {
        return Ok(vec![Shards {
            name: file_name(path),
            role: None,
            files: vec![path.into()],
            ignored: vec![],
        }]);
    }
    let sets = shards::find_all(path)?;
    match sets.is_empty() {
        true => Err(tfrecord::Error::NoShards {
            dir: path.into(),
            expected: "train",
            found: vec![],
        }),
        false => Ok(sets),
    }
}

/// Reads a whole set. Calls `done` after each file, from any thread.
///
/// # Errors
/// Files that cannot be opened or read. Damaged ones are counted instead.
pub fn inspect(shards: &Shards, classes: Option<&Classes>, depth: Depth, done: &(dyn Fn() + Sync)) -> Result<Set> {
    let files = &shards.files;
    let tally = |index: usize| {
        let tally = tally(&files[index], depth.decode);
        done();
        tally
    };
    let tallies = parallel::map(files.len(), depth.threads, tally)?;
    let mut first = vec![];
    for_each(files, &mut |record| {
        if first.len() < depth.records {
            first.push(list(&record));
        }
        first.len() < depth.records
    })?;
    let is_empty = |tally: &Tally| tally.records + tally.damaged_records + tally.no_examples == 0;
    let empty = files.iter().zip(&tallies).filter(|(_, tally)| is_empty(tally));
    let empty_files = empty.map(|(file, _)| file_name(file)).collect();
    let tally = tallies.into_iter().fold(Tally::default(), Tally::merge);
    Ok(Set {
        name: shards.name.clone(),
        files: files.len(),
        empty_files,
        ignored_files: shards.ignored.iter().map(|file| file_name(file)).collect(),
        classes: class_names(classes, &tally),
        tally,
        first,
    })
}

/// Name of a label, if the folder lists its classes and the label is in range.
pub fn class_name(classes: Option<&Classes>, label: i64, first: i64) -> Option<&str> {
    let place = usize::try_from(label.checked_sub(first)?).ok()?;
    classes
        .map(|classes| classes.get(place).0)
        .filter(|name| !name.is_empty())
}

fn class_names(classes: Option<&Classes>, tally: &Tally) -> BTreeMap<i64, String> {
    let first = tally.first_label.unwrap_or(0);
    let named = |&label: &i64| Some((label, class_name(classes, label, first)?.to_owned()));
    tally.labels.keys().filter_map(named).collect()
}

/// Passes the sound records of files to `take` in order, until it returns false.
///
/// # Errors
/// Files that cannot be opened.
pub fn for_each(files: &[PathBuf], take: &mut dyn FnMut(Record<'_>) -> bool) -> Result<()> {
    for file in files {
        let mut reader = Reader::open(file, Options::default())?;
        loop {
            match reader.next() {
                Ok(Some(record)) if !take(record) => return Ok(()),
                Ok(None) => break,
                // Faults are counted elsewhere. A damaged length ends the file.
                Ok(Some(_)) | Err(_) => {}
            }
        }
    }
    Ok(())
}

fn tally(path: &Path, decode: bool) -> Result<Tally> {
    let mut tally = Tally::default();
    let mut reader = Reader::open(path, Options::default())?;
    let mut pixels = decode.then(Image::default);
    loop {
        match reader.next() {
            Ok(None) => return Ok(tally),
            Ok(Some(record)) => tally.add(&record, pixels.as_mut()),
            Err(error @ (tfrecord::Error::Record { .. } | tfrecord::Error::Read { .. })) => {
                tally.damaged_records += 1;
                tally.record(&error);
            }
            Err(error) => return Err(error),
        }
    }
}

impl Tally {
    fn add(&mut self, record: &Record<'_>, pixels: Option<&mut Image>) {
        self.records += 1;
        self.bytes += record.bytes.len() as u64;
        let example = record.example();
        let labelled = example.and_then(|e| Labelled::of(&e).map_err(|problem| record.error(problem)));
        let labelled = match labelled {
            Ok(labelled) => labelled,
            Err(error) => {
                self.no_examples += 1;
                return self.record(&error);
            }
        };
        *self.labels.entry(labelled.label).or_default() += 1;
        self.first_label = Some(labelled.first);
        self.picture_bytes.add(labelled.encoded.len());
        if let Err(problem) = self.add_picture(labelled.encoded, pixels) {
            self.damaged_pictures += 1;
            self.record(&record.error(tfrecord::Problem::Other(problem.to_string())));
        }
    }

    /// Reads the header, and decodes the picture if `pixels` is given.
    fn add_picture(&mut self, encoded: &[u8], pixels: Option<&mut Image>) -> picture::Result<()> {
        let (format, header) = (Format::of(encoded)?, Header::of(encoded)?);
        self.pictures += 1;
        match format {
            Format::Jpeg => self.jpeg += 1,
            Format::Png => self.png += 1,
        }
        self.grey += u64::from(header.components <= 2);
        self.cmyk += u64::from(format == Format::Jpeg && header.components == 4);
        self.height.add(header.height);
        self.width.add(header.width);
        match pixels {
            None => Ok(()),
            Some(pixels) => {
                let decoded = picture::decode(encoded, Dct::Fast, |header| Ok(header.whole()), pixels);
                pixels.free_large();
                decoded
            }
        }
    }

    fn record(&mut self, error: &tfrecord::Error) {
        if self.damages.len() < TOLD {
            self.damages.push(error.to_string());
        }
    }

    fn merge(mut self, other: Tally) -> Tally {
        for (label, count) in other.labels {
            *self.labels.entry(label).or_default() += count;
        }
        self.damages.extend(other.damages);
        self.damages.truncate(TOLD);
        Tally {
            first_label: self.first_label.or(other.first_label),
            records: self.records + other.records,
            bytes: self.bytes + other.bytes,
            pictures: self.pictures + other.pictures,
            jpeg: self.jpeg + other.jpeg,
            png: self.png + other.png,
            grey: self.grey + other.grey,
            cmyk: self.cmyk + other.cmyk,
            picture_bytes: self.picture_bytes.merge(other.picture_bytes),
            height: self.height.merge(other.height),
            width: self.width.merge(other.width),
            damaged_records: self.damaged_records + other.damaged_records,
            no_examples: self.no_examples + other.no_examples,
            damaged_pictures: self.damaged_pictures + other.damaged_pictures,
            ..self
        }
    }

    /// Number of faulty records and pictures.
    pub fn damaged(&self) -> u64 {
        self.damaged_records + self.no_examples + self.damaged_pictures
    }
}

fn list(record: &Record<'_>) -> Listed {
    let features = match record.example() {
        Ok(example) => example
            .features()
            .map(|(key, feature)| (key.to_owned(), show(feature)))
            .collect(),
        Err(_) => BTreeMap::new(),
    };
    Listed {
        file: file_name(record.path),
        offset: record.offset,
        bytes: record.bytes.len(),
        features,
    }
}

/// Formats a feature's values briefly.
fn show(feature: &Feature<'_>) -> String {
    let text = match feature.kind() {
        None => "nothing".to_owned(),
        Some(_) if feature.is_empty() => "[]".to_owned(),
        Some(Kind::Floats) => shown(&feature.floats()),
        Some(Kind::Int64s) => shown(&feature.first_int64s(SHOWN)),
        Some(Kind::Bytes) => {
            let values = feature
                .bytes()
                .into_iter()
                .map(|value| match std::str::from_utf8(value) {
                    Ok(text) if text.chars().count() <= SHOWN && !text.contains(char::is_control) => {
                        format!("'{text}'")
                    }
                    _ => format!("{} bytes", value.len()),
                });
            values.take(SHOWN).collect::<Vec<_>>().join(", ")
        }
    };
    match text.char_indices().nth(2 * SHOWN) {
        None => text,
        Some((end, _)) => format!("{} ... ({} values)", &text[..end], feature.len()),
    }
}

fn shown<T: ToString>(values: &[T]) -> String {
    let values = values.iter().take(SHOWN).map(T::to_string);
    values.collect::<Vec<_>>().join(", ")
}
