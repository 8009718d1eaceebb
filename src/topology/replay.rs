//! Reads a journal from its start and keeps the masks up to date.

use std::path::{Path, PathBuf};

use super::{Changes, Error, FILE, Header, Kind, MAX_RECORD_BYTES, Result};
use crate::data::tfrecord::{self, Compression, Options, Problem, Reader};

/// A record after the header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Iterations done when the masks were these.
    pub iteration: u64,
    /// Global step of the update.
    pub step: i64,
    /// Kind of the changes.
    pub kind: Kind,
    /// Changes of each layer since the record before.
    pub layers: Vec<Changes>,
}

/// Bytes before the changes: iteration, global step, kind.
const FIXED: usize = 8 + 8 + 1;

impl Record {
    pub(super) fn pack(&self) -> Vec<u8> {
        let moved: usize = self.layers.iter().map(Changes::moved).sum();
        let mut bytes = Vec::with_capacity(FIXED + 2 * moved);
        bytes.extend(self.iteration.to_le_bytes());
        bytes.extend(self.step.to_le_bytes());
        bytes.push(self.kind as u8);
        self.layers.iter().for_each(|changes| changes.pack(&mut bytes));
        bytes
    }

    fn unpack(bytes: &[u8], header: &Header) -> Result<Self, String> {
        let (fixed, mut rest) = bytes.split_at_checked(FIXED).ok_or("cut before its changes")?;
        let mut eight = fixed
            .chunks_exact(8)
            .map(|c| u64::from_le_bytes(c.try_into().unwrap_or_default()));
        let (iteration, step) = (
            eight.next().unwrap_or_default(),
            eight.next().unwrap_or_default() as i64,
        );
        let kind = Kind::from_byte(fixed[FIXED - 1]);
        let kind = kind.ok_or_else(|| format!("kind {}, expected 0, 1 or 2", fixed[FIXED - 1]))?;
        let mut layers = Vec::with_capacity(header.layers.len());
        for layer in &header.layers {
            let changes = Changes::unpack(&mut rest, layer.weights());
            layers
                .push(changes.ok_or_else(|| format!("changes of layer {} are cut or beyond its weights", layer.name))?);
        }
        match rest.len() {
            0 => Ok(Record {
                iteration,
                step,
                kind,
                layers,
            }),
            more => Err(format!("{more} bytes after its last layer")),
        }
    }
}

/// A journal that is read from its start.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    reader: Reader,
    header: Header,
    /// One byte per weight, 1 for a connection.
    pub(super) masks: Vec<Vec<u8>>,
    iteration: Option<u64>,
    /// The next record and its offset, if it is read already.
    pending: Option<(u64, Record)>,
    /// Offset after the last record applied.
    applied: u64,
    cut: bool,
}

impl Journal {
    /// Opens the journal of a run folder, or a journal file.
    ///
    /// # Errors
    /// A file that is missing, unreadable, or no journal.
    pub fn open(path: &Path) -> Result<Self> {
        let file = match path.is_dir() {
            true => path.join(FILE),
            false => path.to_owned(),
        };
        if !file.exists() {
            return Err(Error::Missing { path: path.to_owned() });
        }
        let path = file;
        let options = Options {
            compression: Some(Compression::None),
            max_record_bytes: MAX_RECORD_BYTES,
        };
        let mut reader = Reader::open(&path, options)?;
        let foreign = |reason| Error::Foreign {
            path: path.clone(),
            reason,
        };
        let Some(first) = reader.next()? else {
            return Err(foreign("an empty file, expected a topology journal".into()));
        };
        let header = Header::parse(first.bytes).map_err(foreign)?;
        let applied = reader.offset();
        Ok(Journal {
            masks: header.layers.iter().map(|layer| vec![0; layer.weights()]).collect(),
            path,
            reader,
            header,
            iteration: None,
            pending: None,
            applied,
            cut: false,
        })
    }

    /// The path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The layers.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Masks after the last record returned, in C order, one byte per weight. Empty before the first record.
    pub fn masks(&self) -> &[Vec<u8>] {
        &self.masks
    }

    /// Iteration of the last record returned.
    pub fn iteration(&self) -> Option<u64> {
        self.iteration
    }

    /// Whether the file ends within a record, as that of a run that is being written or was killed.
    pub fn is_cut(&self) -> bool {
        self.cut
    }

    /// Offset in the file after the last record returned.
    pub fn offset(&self) -> u64 {
        self.applied
    }

    /// Reads the next record and applies it to the masks; `None` at the end.
    ///
    /// # Errors
    /// A damaged record, or one that does not fit the masks.
    #[allow(clippy::should_implement_trait)] // the masks are part of the answer
    pub fn next(&mut self) -> Result<Option<Record>> {
        self.next_until(u64::MAX)
    }

    /// As [`Journal::next`], but stops before records of later iterations.
    ///
    /// # Errors
    /// As [`Journal::next`].
    pub fn next_until(&mut self, iteration: u64) -> Result<Option<Record>> {
        if self.pending.is_none() {
            self.pending = self.read()?;
        }
        let within = |pending: &mut (u64, Record)| pending.1.iteration <= iteration;
        let Some((offset, record)) = self.pending.take_if(within) else {
            return Ok(None);
        };
        for ((changes, mask), layer) in record.layers.iter().zip(&mut self.masks).zip(&self.header.layers) {
            changes.apply(mask).map_err(|reason| Error::Damaged {
                path: self.path.clone(),
                offset,
                reason: format!("layer {}: {reason}", layer.name),
            })?;
        }
        self.iteration = Some(record.iteration);
        self.applied = self.reader.offset();
        Ok(Some(record))
    }

    /// Replays up to the masks after `iteration` iterations, or to the end. Calls `each` with every record and the journal.
    /// Returns the iteration of the last record.
    ///
    /// # Errors
    /// As [`Journal::next`], and an iteration before the first record.
    pub fn replay(&mut self, iteration: Option<u64>, mut each: impl FnMut(&Record, &Self)) -> Result<u64> {
        while let Some(record) = self.next_until(iteration.unwrap_or(u64::MAX))? {
            each(&record, self);
        }
        match (self.iteration, &self.pending) {
            (Some(last), _) => Ok(last),
            (None, Some((_, first))) => Err(Error::Outside {
                path: self.path.clone(),
                asked: iteration.unwrap_or_default(),
                first: first.iteration,
            }),
            (None, None) => Err(Error::Foreign {
                path: self.path.clone(),
                reason: "no masks, expected those of the first iteration: the run was killed before it wrote them"
                    .into(),
            }),
        }
    }

    /// Reads the next record with its offset.
    fn read(&mut self) -> Result<Option<(u64, Record)>> {
        let offset = self.reader.offset();
        let record = match self.reader.next() {
            Ok(None) => return Ok(None),
            Ok(Some(record)) => Record::unpack(record.bytes, &self.header),
            Err(tfrecord::Error::Record {
                problem: Problem::ShortHeader { .. } | Problem::ShortData { .. },
                ..
            }) => {
                self.cut = true;
                return Ok(None);
            }
            Err(error) => return Err(error.into()),
        };
        let damaged = |reason| Error::Damaged {
            path: self.path.clone(),
            offset,
            reason,
        };
        let record = record.map_err(damaged)?;
        match self.iteration {
            Some(before) if before > record.iteration => {
                Err(damaged(format!("iteration {} after {before}", record.iteration)))
            }
            Some(_) if record.kind == Kind::Start => Err(damaged("first masks again, expected an update".into())),
            None if record.kind != Kind::Start => Err(damaged("an update, expected the first masks".into())),
            Some(_) | None => Ok(Some((offset, record))),
        }
    }
}
