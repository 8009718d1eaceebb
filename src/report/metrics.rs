//! `metrics.jsonl`: one JSON object per line, each with its iteration.

use std::fs::File;
use std::io::{self, Write};

use serde::Serialize;

/// Appends lines to the metrics file opened by [`crate::checkpoint::RunDir::metrics`]. Each line is written at once and
/// whole.
#[derive(Debug)]
pub struct Writer(File);

impl Writer {
    /// Creates a writer at the end of `file`.
    pub fn new(file: File) -> Self {
        Writer(file)
    }

    /// Appends one record. It must have an `iteration`, which resuming needs.
    ///
    /// # Errors
    /// A record that cannot be serialised, or I/O errors.
    pub fn write(&mut self, record: &impl Serialize) -> io::Result<()> {
        let mut line = serde_json::to_vec(record)?;
        line.push(b'\n');
        self.0.write_all(&line)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn records_are_lines_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        let mut writer = Writer::new(File::create(&path).unwrap());
        for iteration in [1, 2] {
            writer
                .write(&serde_json::json!({"iteration": iteration, "loss": f32::NAN}))
                .unwrap();
        }
        let want = "{\"iteration\":1,\"loss\":null}\n{\"iteration\":2,\"loss\":null}\n";
        assert_eq!(std::fs::read_to_string(&path).unwrap(), want);
    }
}
