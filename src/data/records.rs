//! ImageNet, or other pictures in TFRecords with its features, one at a time: a record is read where it lies, its picture
//! decoded, cropped, resized and, for training, changed at random (reference 4.2).

use std::path::{Path, PathBuf};
use std::sync::Arc;

use hlo::{DType, Shape};

use super::budget::RECORDS;
use super::imagenet::Preprocessor;
use super::pipeline::{self, Order, Pipeline, Place, Source};
use super::sets::Form;
use super::tfrecord::labelled::Labelled;
use super::tfrecord::shards::{self, Role, Shards, file_name};
use super::tfrecord::{self, Indexed, Problem, Record, Scratch};
use super::{Error, Result, Split, cores, folder, named, parallel, stream};
use crate::report::escape;

/// Examples of the published training and validation sets.
pub const EXAMPLES: [usize; 2] = [1_281_167, 50_000];
/// Number of classes of ImageNet.
pub const CLASSES: usize = 1000;
/// What a folder holds that has them.
pub const FILES: &str =
    "its TFRecords (train-00000-of-01024 to train-01023-of-01024, validation-00000-of-00128 and so on)";

/// The records of a split, in the order of the files' names and of their places in them.
pub struct Records {
    files: Vec<Indexed>,
    /// Index of the first record of each file, and at last the number of records.
    starts: Vec<usize>,
    preprocessor: Preprocessor,
    classes: usize,
    /// Number of classes that the folder lists, if it does.
    listed: Option<usize>,
    seed: u64,
    /// Files that end before their end, because a length is damaged.
    damaged: usize,
}

/// What the files of a split are for; the first that there are is taken.
fn roles(split: Split) -> &'static [Role] {
    match split {
        Split::Train => &[Role::Train],
        Split::Test => &[Role::Validation, Role::Test],
    }
}

/// Whether a folder holds files of either split, some of which may be missing.
pub fn are_in(dir: &Path) -> bool {
    let all = [roles(Split::Train), roles(Split::Test)].concat();
    shards::exist(dir, &all).is_ok_and(|exist| exist)
}

/// The files of a split.
///
/// # Errors
/// As [`shards::find`].
pub fn find(dir: &Path, split: Split) -> tfrecord::Result<Shards> {
    shards::find(dir, roles(split))
}

/// The files of a split with their records. `skip_corrupt` of them may be damaged: the records before the damage are kept.
/// What is left out is told to `note`.
///
/// # Errors
/// As [`find`], files that cannot be read, or more damaged ones.
pub fn open_files(
    dir: &Path,
    split: Split,
    skip_corrupt: usize,
    note: impl Fn(String),
) -> Result<(Vec<Indexed>, usize)> {
    let shards = find(dir, split)?;
    let names =
        |paths: &mut dyn Iterator<Item = &Path>| named(paths.map(|path| escape::name(&file_name(path)).into_owned()));
    if !shards.ignored.is_empty() {
        let ignored = names(&mut shards.ignored.iter().map(PathBuf::as_path));
        note(format!(
            "note: {}: not read, as they are no shards: {ignored}",
            escape::path(dir)
        ));
    }
    let (mut files, mut damaged) = (vec![], 0);
    for (file, fault) in index(&shards.files)? {
        if let Some(fault) = fault {
            damaged += 1;
            if damaged > skip_corrupt {
                return Err(fault.into());
            }
            note(format!("left out, with all after it in its file: {fault}"));
        }
        files.push(file);
    }
    if files.iter().all(Indexed::is_empty) {
        return Err(Error::NoRecords {
            dir: dir.into(),
            files: files.len(),
        });
    }
    if files.iter().any(Indexed::is_empty) {
        let empty = names(&mut files.iter().filter(|file| file.is_empty()).map(Indexed::path));
        note(format!("note: {}: files without a record: {empty}", escape::path(dir)));
    }
    Ok((files, damaged))
}

impl Records {
    /// Finds the files of a split and the records in them.
    ///
    /// # Errors
    /// A network that takes no square pictures in colour; missing or damaged files, of which
    /// [`Form::skip_corrupt`] may be, each of them then without the records from the damaged one on; no records at all.
    pub fn open(dir: &Path, split: Split, form: &Form) -> Result<Self> {
        let &[size, width, 3] = form.dims else {
            return Err(Error::NotPictures { dims: form.dims.into() });
        };
        if size != width {
            return Err(Error::NotPictures { dims: form.dims.into() });
        }
        let (files, damaged) = open_files(dir, split, form.skip_corrupt, |text| crate::report::note!("{text}"))?;
        let mut starts = vec![0];
        starts.extend(files.iter().scan(0, |n, file| {
            *n += file.len();
            Some(*n)
        }));
        Ok(Records {
            files,
            starts,
            preprocessor: Preprocessor {
                size,
                kind: form.pictures,
            },
            classes: form.classes,
            listed: folder::listed_classes(dir)?.map(|classes| classes.len()),
            seed: form.seed,
            damaged,
        })
    }

    /// Number of classes: those that the folder lists, else those of the network.
    pub fn classes(&self) -> usize {
        self.listed.unwrap_or(self.classes)
    }

    /// Files whose rest is left out.
    pub fn damaged(&self) -> usize {
        self.damaged
    }

    /// Gives `take` what tells these files from others: their names, and where their records begin.
    pub fn describe(&self, mut take: impl FnMut(&[u8])) {
        for file in &self.files {
            let name = file.path().file_name().unwrap_or_default();
            take(name.as_encoded_bytes());
            (0..file.len()).for_each(|i| take(&file.offset(i).to_le_bytes()));
        }
    }

    /// Starts to make examples; of what `options` let be corrupt the damaged files are a part.
    ///
    /// # Errors
    /// As [`Pipeline::start`].
    pub fn pipeline(self: Arc<Self>, order: Order, options: pipeline::Options, first: u64) -> Result<Pipeline> {
        let skip_corrupt = options.skip_corrupt.saturating_sub(self.damaged);
        let options = pipeline::Options {
            skip_corrupt,
            ..options
        };
        Pipeline::start(self, order, options, first)
    }

    /// File and offset of an example.
    ///
    /// # Panics
    /// If there is no such example.
    pub fn place(&self, index: usize) -> (&Path, u64) {
        let (file, record) = self.locate(index);
        (file.path(), file.offset(record))
    }

    fn locate(&self, index: usize) -> (&Indexed, usize) {
        let file = self.starts.partition_point(|&start| start <= index) - 1;
        (&self.files[file], index - self.starts[file])
    }

    /// The label that a record tells, from 0.
    fn label(&self, record: &Record, found: i64, first: i64) -> Result<i32> {
        let label = found.checked_sub(first).and_then(|label| usize::try_from(label).ok());
        match label.filter(|&label| label < self.classes) {
            Some(label) => Ok(label as i32),
            None => {
                let last = self.classes as i64 - 1 + first;
                let told = format!("class {found}, expected {first} to {last}");
                Err(record.error(Problem::Other(told)).into())
            }
        }
    }
}

impl Source for Records {
    /// Bytes of a record.
    type Scratch = Vec<u8>;

    fn len(&self) -> usize {
        self.starts.last().copied().unwrap_or(0)
    }

    /// Pixels are from 0 to 255, and somewhat beyond where resizing overshoots.
    fn image(&self) -> Shape {
        let size = self.preprocessor.size;
        Shape::new(DType::F32, [size, size, 3])
    }

    fn read(&self, example: Place, bytes: &mut Vec<u8>, out: &mut [u8]) -> Result<i32> {
        let (file, index) = self.locate(example.index);
        // A large record is not kept once its permit is gone.
        let permit = RECORDS.take(file.bytes(index));
        let mut large = vec![];
        let bytes = if permit.is_some() { &mut large } else { bytes };
        let record = file.read(index, bytes)?;
        let Labelled { encoded, label, first } =
            Labelled::of(&record.example()?).map_err(|error| record.error(error))?;
        let label = self.label(&record, label, first)?;
        let out = bytemuck::cast_slice_mut(out);
        let made = match example.epoch {
            None => self.preprocessor.eval(encoded, out),
            Some(epoch) => {
                let step = epoch.wrapping_mul(self.len() as u64).wrapping_add(example.index as u64);
                let mut random = stream(self.seed, "picture", step);
                self.preprocessor.train(encoded, &[], &mut random, out)
            }
        };
        made.map_err(|error| record.error(Problem::Other(error.to_string())))?;
        Ok(label)
    }
}

/// A file with the records before the first whose length is damaged, and what that is.
type Found = (Indexed, Option<tfrecord::Error>);

/// Finds the records of every file, several at a time: each costs a look at every record's head.
fn index(paths: &[PathBuf]) -> tfrecord::Result<Vec<Found>> {
    let scratch = Scratch::default();
    parallel::map(paths.len(), cores(), |i| {
        Indexed::open_sound(&paths[i], tfrecord::Options::default(), &scratch)
    })
}
