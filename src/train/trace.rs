//! Traces of the plugin's profiler (`train --profile`), if it has one.

use super::error::{Error, Result};
use crate::checkpoint::{RunDir, atomic};
use crate::device::Device;
use crate::report::note;
use pjrt::Profiler;
use std::fs;
use std::io::Write;
use std::path::PathBuf;

/// A trace in the layout of TensorBoard's profile plugin: below the run folder, `plugins/profile` has a folder for each trace
/// with a file for each host.
pub struct Trace {
    profiler: Profiler,
    dir: PathBuf,
}

impl Trace {
    /// Opens the profiler of the devices, if there is one. Its failures are reported, and the run continues.
    pub fn new(device: &Device, dir: &RunDir) -> Option<Self> {
        Some(Trace {
            profiler: report_failure(device.profiler())??,
            dir: dir.path().join("plugins/profile"),
        })
    }

    /// Starts the profiler; `None` if that fails.
    pub fn start(mut self) -> Option<Self> {
        report_failure(self.profiler.start()).map(|()| self)
    }

    /// Stops and writes the trace, named after its last `iteration`. Returns the file, or `None` if the profiler fails.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn save(mut self, iteration: u64) -> Result<Option<PathBuf>> {
        let Some(data) = report_failure(self.profiler.stop().and_then(|()| self.profiler.collect())) else {
            return Ok(None);
        };
        let dir = self.dir.join(format!("iteration-{iteration}"));
        let path = dir.join("host.xplane.pb");
        let written = fs::create_dir_all(&dir).and_then(|()| atomic::write(&path, |out| out.write_all(&data)));
        match written {
            Ok(()) => Ok(Some(path)),
            Err(source) => Err(Error::Metrics { path, source }),
        }
    }
}

fn report_failure<T, E: std::fmt::Display>(result: std::result::Result<T, E>) -> Option<T> {
    result.inspect_err(|e| note!("no profile of the devices: {e}")).ok()
}
