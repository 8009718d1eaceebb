//! Pictures in TFRecords with ImageNet's features, one at a time: read the record, decode its picture, crop, resize,
//! and for training augment (reference 4.2).

use std::path::{Path, PathBuf};
use std::sync::Arc;

use hlo::{DType, Shape};

use super::budget::RECORDS;
use super::imagenet::Preprocessor;
use super::pipeline::{self, Order, Pipeline, Place, Source};
use super::sets::ExampleSpec;
use super::tfrecord::labelled::Labelled;
use super::tfrecord::shards::{self, Role, Shards, file_name};
use super::tfrecord::{self, Indexed, Problem, Record, Scratch};
use super::{Error, Result, Split, folder, named, parallel, stream};
use crate::report::escape;
use crate::threads::cores;

/// Number of examples in the published training and validation sets.
pub const EXAMPLES: [usize; 2] = [1_281_167, 50_000];
/// Number of classes of ImageNet.
pub const CLASSES: usize = 1000;
/// Description of a folder that holds them, for messages.
pub const FILES: &str =
    "its TFRecords (train-00000-of-01024 to train-01023-of-01024, validation-00000-of-00128 and so on)";

/// The records of a split, ordered by file name and position.
pub struct Records {
    files: Arc<Vec<Indexed>>,
    /// Index of the first record of each file; the last element is the number of records.
    starts: Arc<Vec<usize>>,
    /// The records of this part, ascending; `None` for all.
    chosen: Option<Vec<usize>>,
    preprocessor: Preprocessor,
    classes: usize,
    /// Number of classes that the folder lists, if it does.
    listed: Option<usize>,
    seed: u64,
    /// Files that are only read in part, because a record length is damaged.
    damaged: usize,
}

/// Roles of the files of a split; the first role with files is used.
fn roles(split: Split) -> &'static [Role] {
    match split {
        Split::Train => &[Role::Train],
        Split::Test => &[Role::Validation, Role::Test],
    }
}

/// Whether a folder holds files of either split. Some shards may be missing.
pub fn are_in(dir: &Path) -> bool {
    let all = [roles(Split::Train), roles(Split::Test)].concat();
    shards::exist(dir, &all).is_ok_and(|exist| exist)
}

/// Finds the files of a split.
///
/// # Errors
/// As [`shards::find`].
pub fn find(dir: &Path, split: Split) -> tfrecord::Result<Shards> {
    shards::find(dir, roles(split))
}

/// Opens the files of a split and finds their records. Up to `skip_corrupt` files may be damaged; the records before
/// the damage are kept, and `note` receives a message about what is skipped.
///
/// # Errors
/// As [`find`], files that cannot be read, or more damaged files than allowed.
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
    /// A network that does not take square colour pictures; missing files; more than [`ExampleSpec::skip_corrupt`] damaged
    /// files (each loses its records from the damage on); or no records at all.
    pub fn open(dir: &Path, split: Split, spec: &ExampleSpec) -> Result<Self> {
        let &[size, width, 3] = spec.dims else {
            return Err(Error::NotPictures { dims: spec.dims.into() });
        };
        if size != width {
            return Err(Error::NotPictures { dims: spec.dims.into() });
        }
        let (files, damaged) = open_files(dir, split, spec.skip_corrupt, |text| crate::report::note!("{text}"))?;
        let mut starts = vec![0];
        starts.extend(files.iter().scan(0, |n, file| {
            *n += file.len();
            Some(*n)
        }));
        Ok(Records {
            files: Arc::new(files),
            starts: Arc::new(starts),
            chosen: None,
            preprocessor: Preprocessor {
                size,
                kind: spec.pictures,
            },
            classes: spec.classes,
            listed: folder::listed_classes(dir)?.map(|classes| classes.len()),
            seed: spec.seed,
            damaged,
        })
    }

    /// The part with these records.
    ///
    /// # Panics
    /// Later, if an index is not below [`Source::len`].
    #[must_use]
    pub fn part(&self, chosen: &[usize]) -> Self {
        let of_all = |&index: &usize| self.chosen.as_ref().map_or(index, |own| own[index]);
        Records {
            files: Arc::clone(&self.files),
            starts: Arc::clone(&self.starts),
            chosen: Some(chosen.iter().map(of_all).collect()),
            ..*self
        }
    }

    /// Number of classes: those that the folder lists, else those of the network. Labels are below it.
    pub fn classes(&self) -> usize {
        self.listed.unwrap_or(self.classes)
    }

    /// Files whose remainder is dropped.
    pub fn damaged(&self) -> usize {
        self.damaged
    }

    /// Passes the identity of the files to `take`: their names and record offsets, and the records of a part.
    pub fn describe(&self, mut take: impl FnMut(&[u8])) {
        for file in self.files.iter() {
            let name = file.path().file_name().unwrap_or_default();
            take(name.as_encoded_bytes());
            (0..file.len()).for_each(|i| take(&file.offset(i).to_le_bytes()));
        }
        let chosen = self.chosen.iter().flatten();
        chosen.for_each(|&index| take(&(index as u64).to_le_bytes()));
    }

    /// Starts the pipeline. Damaged files count towards the corrupt examples that `options` allow.
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

    /// Returns the file and offset of an example.
    ///
    /// # Panics
    /// If `index` is out of range.
    pub fn place(&self, index: usize) -> (&Path, u64) {
        let (file, record) = self.locate(index);
        (file.path(), file.offset(record))
    }

    fn locate(&self, index: usize) -> (&Indexed, usize) {
        let index = self.chosen.as_ref().map_or(index, |chosen| chosen[index]);
        let file = self.starts.partition_point(|&start| start <= index) - 1;
        (&self.files[file], index - self.starts[file])
    }

    /// Returns the label of a record, from 0.
    fn label(&self, record: &Record, found: i64, first: i64) -> Result<i32> {
        let label = found.checked_sub(first).and_then(|label| usize::try_from(label).ok());
        match label.filter(|&label| label < self.classes) {
            Some(label) => Ok(label as i32),
            None => {
                let last = self.classes as i64 - 1 + first;
                let problem = format!("class {found}, expected {first} to {last}");
                Err(record.error(Problem::Other(problem)).into())
            }
        }
    }
}

impl Source for Records {
    /// Buffer for one record.
    type Scratch = Vec<u8>;

    fn len(&self) -> usize {
        let all = self.starts.last().copied().unwrap_or(0);
        self.chosen.as_ref().map_or(all, Vec::len)
    }

    /// Pixels are from 0 to 255, or slightly outside where bicubic resizing overshoots.
    fn image(&self) -> Shape {
        let size = self.preprocessor.size;
        Shape::new(DType::F32, [size, size, 3])
    }

    fn read(&self, example: Place, bytes: &mut Vec<u8>, out: &mut [u8]) -> Result<i32> {
        let (file, index) = self.locate(example.index);
        // Frees a large record together with its permit.
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

/// A file with the records before the first damaged length, and the damage.
type Found = (Indexed, Option<tfrecord::Error>);

/// Finds the records of every file, several at a time, because each file needs a read per record header.
fn index(paths: &[PathBuf]) -> tfrecord::Result<Vec<Found>> {
    let scratch = Scratch::default();
    parallel::map(paths.len(), cores(), |i| {
        Indexed::open_sound(&paths[i], tfrecord::Options::default(), &scratch)
    })
}
