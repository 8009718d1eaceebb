//! `metrics.jsonl`: one JSON object per line, each with the iteration it belongs to.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

/// Appends lines to a metrics file. A line reaches the file whole, as soon as it is written.
#[derive(Debug)]
pub struct Writer {
    file: File,
}

/// The part of a line that resuming looks at.
#[derive(Deserialize)]
struct Stamp {
    iteration: u64,
}

impl Writer {
    /// A new, empty file.
    ///
    /// # Errors
    /// What the file system reports.
    pub fn create(path: &Path) -> io::Result<Self> {
        Ok(Writer {
            file: File::create(path)?,
        })
    }

    /// The file of a run that goes on after `iteration`: later lines, and whatever a crash left unfinished, are cut off.
    ///
    /// # Errors
    /// What the file system reports. A missing file starts empty.
    pub fn resume(path: &Path, iteration: u64) -> io::Result<Self> {
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        let stays = |line: &&[u8]| {
            line.ends_with(b"\n")
                && serde_json::from_slice::<Stamp>(line).is_ok_and(|stamp| stamp.iteration <= iteration)
        };
        let kept: usize = bytes
            .split_inclusive(|&b| b == b'\n')
            .take_while(stays)
            .map(<[u8]>::len)
            .sum();
        file.set_len(kept as u64)?;
        file.seek(SeekFrom::End(0))?;
        Ok(Writer { file })
    }

    /// Appends one record, which must have an `iteration`.
    ///
    /// # Errors
    /// A record without JSON form, or what the file system reports.
    pub fn write(&mut self, record: &impl Serialize) -> io::Result<()> {
        let mut line = serde_json::to_vec(record)?;
        line.push(b'\n');
        self.file.write_all(&line)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn resuming_cuts_later_and_unfinished_lines() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        let mut writer = Writer::create(&path).unwrap();
        for iteration in [100, 200, 300] {
            writer.write(&json!({"iteration": iteration, "loss": 0.5})).unwrap();
        }
        let mut writer = Writer::resume(&path, 200).unwrap();
        writer.write(&json!({"iteration": 250})).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let want = "{\"iteration\":100,\"loss\":0.5}\n{\"iteration\":200,\"loss\":0.5}\n{\"iteration\":250}\n";
        assert_eq!(text, want);

        std::fs::write(&path, format!("{want}{{\"iteration\":26")).unwrap();
        Writer::resume(&path, 1000).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), want);
    }

    #[test]
    fn resuming_without_a_file_starts_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        Writer::resume(&path, 5)
            .unwrap()
            .write(&json!({"iteration": 6}))
            .unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "{\"iteration\":6}\n");
    }
}
